"""A file in this process: each format as it comes, and the trace of every step."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import webvtt

from stream_server.config import Config, RecogniserConfig
from stream_server.errors import BadAudio
from stream_server.offline import OfflineJob, TracingRecogniser, transcribe_offline
from stream_server.recogniser.fake import FakeRecogniser

CONFIG = Config(recogniser=RecogniserConfig(model="fake", steps=3))


@pytest.fixture
def file(tmp_path: Path, speech) -> Path:
    path = tmp_path / "speech.wav"
    path.write_bytes(speech(1.0, 1.4))
    return path


async def run(file: Path, format: str, **options) -> list[str]:
    written: list[str] = []
    await transcribe_offline(OfflineJob(file, format, **options), CONFIG, written.append)
    return [piece for piece in written if piece]


async def test_each_segment_is_written_as_it_comes(file: Path) -> None:
    pieces = await run(file, "text")
    assert len(pieces) == 2
    assert all(piece.endswith("\n") for piece in pieces)


async def test_json_has_a_line_for_each_segment(file: Path) -> None:
    lines = [json.loads(line) for line in "".join(await run(file, "json")).splitlines()]
    assert [line["segment"] for line in lines] == [0, 1]
    assert [line["text"] + "\n" for line in lines] == await run(file, "text")
    assert lines[1]["words"][0]["start"] >= lines[1]["start"] > lines[0]["end"]


async def test_subtitles(file: Path) -> None:
    assert (await run(file, "srt"))[0].startswith("1\n00:00:00,")
    captions = webvtt.from_string("".join(await run(file, "vtt"))).captions
    assert len(captions) == 2


async def test_the_trace_shows_the_canvas_at_each_step(file: Path) -> None:
    trace: list[str] = []
    pieces = await run(file, "text", trace=trace.append)
    steps = [re.fullmatch(r"segment (\d) step (\d)/3 \| (.+)", line) for line in trace]
    assert sorted((s[1], s[2]) for s in steps if s) == [(a, b) for a in "01" for b in "123"]
    last = {s[1]: s[3] for s in steps if s and s[2] == "3"}
    assert [last["0"], last["1"]] == [piece.strip() for piece in pieces]
    assert len({s[3] for s in steps if s and s[1] == "0"}) > 1


async def test_no_audio_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(BadAudio):
        await run(tmp_path / "a.txt", "text")


def test_tracing_keeps_nothing_of_released_rows(speech) -> None:
    from stream_server.audio import decode_file
    from stream_server.recogniser.interface import Utterance

    tracing = TracingRecogniser(FakeRecogniser(), lambda _: None)
    tracing.warm_up()
    assert tracing.info.name == "fake"
    rows = tracing.start([Utterance(decode_file(speech(1.0)), steps=2, trace=True)])
    tracing.step(rows)
    tracing.release(rows)
    assert tracing._numbers == {}
    assert tracing.inner.live_rows == 0
