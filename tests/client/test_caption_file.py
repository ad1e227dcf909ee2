from __future__ import annotations

import os
import threading

import pysubs2
import pytest
import webvtt

from stream_client.caption_file import CaptionFile
from stream_client.client import RECONNECTED
from stream_client.errors import OutputError
from stream_protocol.messages import Ack, Final, Notice, Partial, Timings, Word

SECOND = 16_000


def partial(stable, tentative, start=1, end=2, channel=0):
    return Partial(0, channel, 1, stable, tentative, start * SECOND, end * SECOND)


def final(text, start=1, end=3, channel=0, words=None):
    times = (start * SECOND, end * SECOND)
    return Final(0, channel, 2, text, *times, "en", 1.0, words, Timings(1, 1, 1, 1))


def read(path):
    return [caption.text for caption in webvtt.read(str(path))]


def test_it_is_a_file_before_anybody_speaks(tmp_path):
    path = tmp_path / "talk.vtt"
    path.write_text("of yesterday")
    CaptionFile(path)
    assert path.read_text() == "WEBVTT\n\n"
    assert read(path) == []


def test_live_it_has_what_is_being_said_until_its_final_is_there(tmp_path):
    path = tmp_path / "talk.vtt"
    file = CaptionFile(path, is_live=True)
    steps = [
        (Ack(1), []),
        (partial("", " good"), ["good"]),
        (partial(" good", " mourning"), ["good mourning"]),
        (final(" good morning"), ["good morning"]),
        (partial("", "b", 4, 5), ["good morning", "b"]),
        (Notice(RECONNECTED, "again"), ["good morning"]),
        (final("bye", 4, 6), ["good morning", "bye"]),
        (partial("", "never heard", 7, 8), ["good morning", "bye", "never heard"]),
    ]
    for message, shown in steps:
        file.show(message)
        assert read(path) == shown, message
    file.close()
    assert read(path) == ["good morning", "bye"]
    numbers = [caption.identifier for caption in webvtt.read(str(path))]
    assert numbers == ["1", "2"], "what came and went took no number"


def test_otherwise_it_has_finals_alone(tmp_path):
    path = tmp_path / "talk.srt"
    file = CaptionFile(path)
    file.show(partial("", "good"))
    assert path.read_text() == ""
    file.show(final("one", words=[Word("one", 2 * SECOND, 3 * SECOND, 1.0)]))
    [event] = pysubs2.load(str(path))
    assert (event.start, event.end, event.text) == (2000, 3000, "one")


def test_names_stand_before_what_is_said(tmp_path):
    path = tmp_path / "talk.vtt"
    file = CaptionFile(path, is_live=True, speakers=("Ada",))
    file.show(final("hello"))
    file.show(final("", 3, 4))
    file.show(partial("", "well", 6, 7, channel=1))
    file.show(partial("", "I", 5, 6))
    said = [(caption.voice, caption.text) for caption in webvtt.read(str(path))]
    assert said == [("Ada", "hello"), ("Ada", "I"), (None, "well")], "in the order of time"
    plain = CaptionFile(tmp_path / "talk.srt", speakers=("Ada",))
    plain.show(final("hello"))
    [event] = pysubs2.load(str(tmp_path / "talk.srt"))
    assert event.text == "Ada: hello"


def test_whoever_reads_at_any_moment_reads_a_whole_file(tmp_path):
    path = tmp_path / "talk.vtt"
    file = CaptionFile(path, is_live=True)
    is_over, counts, problems = threading.Event(), set(), []

    def look():
        while not is_over.is_set():
            text = path.read_text()
            if not text.endswith("\n\n"):
                problems.append(text[-80:])
            counts.add(text.count("-->"))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(300):
        start = 3 * number
        file.show(partial("", f"word {number} & <so> on " * 5, start, start + 1))
        file.show(final(f"word {number} & <so> on " * 5, start, start + 2))
    file.close()
    is_over.set()
    reader.join()
    assert problems == []
    assert len(counts) > 10, "it was read while it grew"
    assert len(read(path)) >= 300
    assert os.listdir(tmp_path) == ["talk.vtt"]


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(OutputError, match=r"talk\.txt: .*\.vtt or \.srt"):
        CaptionFile(tmp_path / "talk.txt")
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        CaptionFile(tmp_path / "nowhere" / "talk.vtt")
