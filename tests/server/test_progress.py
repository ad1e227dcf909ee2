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


def test_a_long_part_says_how_far_it_is() -> None:
    stream = io.StringIO()
    with Progress("loading", stream) as progress:
        for done in range(5):
            progress.report("recording graphs", done, 4)
    progress.report("recording graphs", 4, 4)
    lines = stream.getvalue().splitlines()
    assert lines[1:] == ["recording graphs: 0 of 4", "recording graphs: 4 of 4"]


def test_a_long_part_is_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    with Progress("loading", stream) as progress:
        progress.report("recording graphs", 1, 4)
        assert progress._status is not None
        assert "recording graphs ━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ 1/4" in str(progress._status.status)
