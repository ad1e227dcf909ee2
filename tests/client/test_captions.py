from __future__ import annotations

import io

import pysubs2
import pytest
import webvtt
from rich.console import Console
from rich.text import Text

from stream_client.captions import (
    JsonView,
    LiveView,
    PlainLiveView,
    SubtitleView,
    TextView,
    ViewGroup,
    make_view,
)
from stream_client.client import RECONNECTED
from stream_protocol.codec import decode_server
from stream_protocol.messages import Ack, Done, Final, Notice, Partial, Timings, Word

SECOND = 16_000
TIMINGS = Timings(1, 1, 1, 1)


def partial(stable, tentative, channel=0):
    return Partial(0, channel, 1, stable, tentative, SECOND, 2 * SECOND)


def final(text, start=SECOND, end=3 * SECOND, channel=0, words=None):
    return Final(0, channel, 2, text, start, end, "en", 1.0, words, TIMINGS)


TALK = [
    Ack(1),
    partial("", " good"),
    partial(" good", " mourning"),
    final(" good morning"),
    final("", 3 * SECOND, 4 * SECOND),
    final("bye.", 65 * SECOND, 66 * SECOND),
    Done(66 * SECOND, 3),
]


def written(view_of, messages=TALK):
    out = io.StringIO()
    view = view_of(out)
    for message in messages:
        view.show(message)
    view.close()
    return out.getvalue()


def test_text():
    assert written(TextView) == "good morning\nbye.\n"


def test_json_lines():
    assert [decode_server(line) for line in written(JsonView).splitlines()] == TALK


def test_plain_live_ends_with_the_transcript():
    assert written(PlainLiveView) == (
        "00:01.0 - 00:02.0 ~ [good]\n"
        "00:01.0 - 00:02.0 ~ good [mourning]\n"
        "00:01.0 - 00:03.0   good morning\n"
        "01:05.0 - 01:06.0   bye.\n"
        "\n"
        "good morning bye.\n"
    )


def test_plain_live_names_who_speaks():
    talk = [
        partial("", "yes", 0),
        partial("", "no", 1),
        final("yes", channel=0),
        final("no", channel=1),
    ]
    assert written(lambda out: PlainLiveView(out, ("Ada",)), talk) == (
        "00:01.0 - 00:02.0 ~ Ada: [yes]\n"
        "00:01.0 - 00:02.0 #2 ~ [no]\n"
        "00:01.0 - 00:03.0   Ada: yes\n"
        "00:01.0 - 00:03.0 #2   no\n"
        "\n"
        "yes no\n"
    )


def test_srt_is_written_as_it_comes():
    out = io.StringIO()
    view = SubtitleView(out, "srt")
    view.show(final("one", words=[Word("one", 2 * SECOND, 3 * SECOND, 1.0)]))
    first = pysubs2.SSAFile.from_string(out.getvalue(), format_="srt")
    assert [(event.start, event.end, event.text) for event in first] == [(2000, 3000, "one")]
    view.show(final("two", 4 * SECOND, 5 * SECOND))
    view.close()
    assert len(pysubs2.SSAFile.from_string(out.getvalue(), format_="srt")) == 2


def test_vtt():
    text = written(lambda out: SubtitleView(out, "vtt"))
    read = webvtt.from_buffer(io.StringIO(text))
    assert [caption.text for caption in read] == ["good morning", "bye."]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_every_format_has_its_view():
    plain, terminal = io.StringIO(), Terminal()
    kinds = {"text": TextView, "json": JsonView, "srt": SubtitleView, "vtt": SubtitleView}
    for format, kind in kinds.items():
        assert type(make_view(format, plain)) is kind
    assert type(make_view("live", plain)) is PlainLiveView
    live = make_view("live", terminal)
    assert type(live) is LiveView
    live.close()


def test_a_terminal_has_names_in_a_column_of_their_own():
    out = Terminal()
    view = LiveView(
        Console(file=out, force_terminal=True, width=60, _environ={}), ("Ada", "Benjamin")
    )
    view.show(partial("", "no", 1))
    assert view.render_partials().plain == "00:01.0 - 00:02.0  Benjamin  no"
    view.show(final("yes"))
    view.close()
    line = Text.from_ansi(out.getvalue()).plain
    assert "00:01.0 - 00:03.0  Ada       yes" in line


def test_a_group_shows_to_all_and_closes_all():
    class Failing(TextView):
        def close(self):
            raise OSError("full")

    first, last = io.StringIO(), io.StringIO()
    group = ViewGroup([Failing(first), PlainLiveView(last)])
    group.show(final("hello"))
    with pytest.raises(OSError, match="full"):
        group.close()
    assert first.getvalue() == "hello\n"
    assert last.getvalue().endswith("\n\nhello\n"), "closed all the same"


@pytest.fixture
def live():
    out = Terminal()
    console = Console(file=out, force_terminal=True, width=60, color_system="standard", _environ={})
    view = LiveView(console)
    yield view, out
    view.close()


def styles(text):
    return {text.plain[span.start : span.end].strip(): span.style for span in text.spans}


def test_stable_and_tentative_text_look_different(live):
    view, _ = live
    view.show(partial(" good", " mourning"))
    running = view.render_partials()
    assert running.plain == "00:01.0 - 00:02.0  good mourning"
    assert styles(running)["good"] == "bold"
    assert styles(running)["mourning"] == "dim"


def test_tentative_text_is_redrawn_in_place(live):
    view, out = live
    view.show(partial("", "good"))
    before = len(out.getvalue())
    view.show(partial("", "wood"))
    redrawn = out.getvalue()[before:]
    assert "wood" in redrawn
    # Carriage return and "erase line", and no new line: the old text is gone from the screen.
    assert "\r\x1b[2K" in redrawn
    assert "\n" not in redrawn


def test_finals_scroll_up_and_the_running_line_goes(live):
    view, out = live
    view.show(partial("", "good"))
    view.show(final("good morning"))
    assert "good morning" in out.getvalue()
    assert view.render_partials().plain == ""


def test_each_channel_has_a_line(live):
    view, _ = live
    view.show(partial("", "here", channel=1))
    view.show(partial("", "there", channel=0))
    assert view.render_partials().plain == ("00:01.0 - 00:02.0  there\n00:01.0 - 00:02.0 #2  here")


def test_after_a_reconnect_partials_start_anew(live):
    view, _ = live
    view.show(partial("", "lost"))
    view.show(Notice("slow_down", "x"))
    assert view.render_partials().plain != ""
    view.show(Notice(RECONNECTED, "x"))
    assert view.render_partials().plain == ""


def test_the_transcript_comes_last():
    out = Terminal()
    view = LiveView(Console(file=out, force_terminal=True, width=60, _environ={}))
    for message in TALK:
        view.show(message)
    view.close()
    assert out.getvalue().rstrip().endswith("good morning bye.")


def test_markup_in_a_transcript_is_only_text(live):
    view, out = live
    view.show(final("[red]stop[/red] [/]"))
    assert "[red]stop[/red] [/]" in out.getvalue()
