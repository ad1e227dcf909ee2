"""A spinner on a terminal, lines elsewhere, nothing said twice."""

from __future__ import annotations

import io

from stream_server.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with Progress("loading model x", stream) as progress:
        assert stream.getvalue() == "loading model x ...\n"
        progress.stop()
        progress.stop()
    assert stream.getvalue().splitlines()[1].startswith("loading model x: done in 0.")
    assert len(stream.getvalue().splitlines()) == 2


def test_a_spinner_on_a_terminal_is_taken_away() -> None:
    stream = Terminal()
    with Progress("loading", stream) as progress:
        progress.stop()
    assert "loading: done in" in stream.getvalue()
    assert stream.getvalue().endswith("s\n")


def test_a_failure_says_nothing_of_done() -> None:
    stream = io.StringIO()
    try:
        with Progress("loading", stream):
            raise RuntimeError
    except RuntimeError:
        pass
    assert "done" not in stream.getvalue()
