"""Files as participants, and minutes that grow."""

from __future__ import annotations

import asyncio
import io
import wave
from pathlib import Path

import numpy as np
import pytest

from stream_client.errors import ClientError, OutputError, SourceError
from stream_client.meeting import Meeting
from stream_client.meeting_play import MinutesFile, MinutesView, Track, parse_address, play_meeting
from stream_client.timeline import Timeline, Utterance

SECOND = 16_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anna=a.wav", Track("Anna", Path("a.wav"))),
        (" Ben B =dir/b.wav@2.5", Track("Ben B", Path("dir/b.wav"), 40_000)),
        ("Zoë=me@home.wav", Track("Zoë", Path("me@home.wav"))),
        ("x=a=b.wav@0", Track("x", Path("a=b.wav"), 0)),
    ],
)
def test_a_track_is_a_name_and_a_file(text, expected):
    assert Track.parse(text) == expected


@pytest.mark.parametrize("text", ["", "a.wav", "=a.wav", "Anna=", "Anna=@3"])
def test_what_is_no_track(text):
    with pytest.raises(ValueError, match="NAME=FILE"):
        Track.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anna=https://x/whep?room=1", ("Anna", "https://x/whep?room=1")),
        ("https://x/whep?room=1", (None, "https://x/whep?room=1")),
        ("https://x/whep", (None, "https://x/whep")),
        (" =https://x/whep", (None, "https://x/whep")),
    ],
)
def test_an_address_may_have_a_name(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize("name", ["minutes.md", "MINUTES.MD"])
def test_minutes_are_whole_at_each_moment(tmp_path, name):
    path = tmp_path / name
    file, timeline = MinutesFile(path, "Plan"), Timeline()
    for number in range(3):
        timeline.add(Utterance(0, "Anna", number, 0, SECOND, f"word{number}", is_final=True))
        file.write(timeline)
        assert path.read_text().startswith("# Plan\n")
        assert f"word{number}" in path.read_text()
    assert list(tmp_path.iterdir()) == [path], "no draft is left"


def test_minutes_want_a_known_suffix_and_a_place(tmp_path):
    with pytest.raises(OutputError, match=r"\.md"):
        MinutesFile(tmp_path / "minutes.doc", "Plan")
    with pytest.raises(OutputError, match="cannot be written"):
        MinutesFile(tmp_path / "no" / "minutes.md", "Plan").write(Timeline())


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SECOND, 0, "NONE", ""))
        file.writeframes(np.arange(9600, dtype="<i2").tobytes())
    return path


async def play(url, tracks, format="text", files=(), **options):
    out = io.StringIO()
    view = MinutesView(out, format, files, "Plan")
    async with Meeting(url, **options) as meeting, asyncio.timeout(20):
        await play_meeting(meeting, tracks, "max", view)
    return meeting, out.getvalue()


async def test_files_are_played_on_one_clock(serving, speaking_server, clip):
    tracks = [Track("Anna", clip), Track("Ben", clip, SECOND)]
    async with serving(speaking_server()) as server:
        meeting, text = await play(server.url, tracks)
    assert text.count("] Anna: ") == text.count("] Ben: ") == 2
    assert [(each.speaker, each.start) for each in meeting.timeline.utterances] == [
        ("Anna", 0),
        ("Anna", 4800),
        ("Ben", SECOND),
        ("Ben", SECOND + 4800),
    ]


async def test_files_are_played_in_one_mix(serving, speaking_server, clip):
    async with serving(speaking_server()) as server:
        meeting, _ = await play(
            server.url, [Track("Anna", clip), Track("Ben", clip)], mixed="always"
        )
    assert len(server.heard) == 1
    assert meeting.timeline.end == 9600


async def test_who_cannot_be_heard_does_not_end_the_others(
    serving, speaking_server, clip, tmp_path
):
    tracks = [Track("Anna", clip), Track("Ben", clip.with_name("gone.wav"))]
    out = tmp_path / "minutes.txt"
    async with serving(speaking_server()) as server:
        with pytest.raises(SourceError, match=r"gone\.wav"):
            await play(server.url, tracks, files=[MinutesFile(out, "Plan")])
    assert out.read_text().count("Anna: ") == 2


def test_files_change_when_what_is_in_them_does(tmp_path):
    paths = [tmp_path / "m.md", tmp_path / "m.srt"]
    files = [MinutesFile(path, "Plan") for path in paths]
    view, timeline = MinutesView(io.StringIO(), "text", files, "Plan"), Timeline()
    running = Utterance(0, "Anna", 0, 0, SECOND, "good", " mor")
    timeline.add(running)
    view.show(running, timeline)
    assert "Anna: good mor" in paths[0].read_text()
    assert not paths[1].exists()
    said = Utterance(0, "Anna", 0, 0, SECOND, "good morning", is_final=True)
    timeline.add(said)
    view.show(said, timeline)
    assert "Anna: good morning" in paths[1].read_text()


async def test_what_is_no_text_is_printed_last(serving, speaking_server, clip):
    async with serving(speaking_server()) as server:
        _, text = await play(server.url, [Track("Anna", clip)], format="markdown")
    assert text.startswith("# Plan\n")
    assert text.endswith("0-4800 4800-9600\n")


async def test_gaps_are_an_error(serving, speaking_server, clip):
    async with serving(speaking_server(cut_after=[5])) as server:
        with pytest.raises(ClientError, match="Anna: .*broke"):
            await play(server.url, [Track("Anna", clip)], reconnect=None)
