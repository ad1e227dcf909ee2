from __future__ import annotations

import asyncio
import wave
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from stream_client.errors import SourceError
from stream_client.load import (
    Latency,
    LoadPlan,
    LoadReport,
    StreamResult,
    Watch,
    find_files,
    read_clip,
    run_load,
    run_streams,
    synthesise,
)
from stream_protocol.messages import (
    Done,
    Error,
    Final,
    Partial,
    SpeechEnded,
    SpeechStarted,
    Start,
    Timings,
)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.arange(4800, dtype="<i2").tobytes())
    return path


def final(segment, end):
    return Final(segment, 0, 1, "x", 0, end, None, 1.0, None, Timings(1, 1, 1, 1))


def test_percentiles_are_nearest_rank():
    assert Latency.of([]) == Latency(0, 0, 0, 0, 0)
    assert Latency.of([7.0]) == Latency(1, 7, 7, 7, 7)
    assert Latency.of(list(range(100, 0, -1))) == Latency(100, 50, 95, 99, 100)


def test_latencies_count_from_when_the_sample_was_sent():
    watch = Watch()
    for index in range(10):
        watch.sent((index + 1) * 1600, 100.0 + (index + 1) * 0.1)
    watch.received(SpeechStarted(0, 0, 3200), 100.55)
    watch.received(Partial(0, 0, 1, "", "x", 0, 8000), 100.6)  # from its pre-roll on
    watch.received(Partial(0, 0, 2, "", "xy", 3200, 9600), 100.7)
    watch.received(SpeechEnded(0, 0, 8000), 100.9)
    watch.received(final(0, 11200), 101.2)
    result = watch.result
    assert result.partials == 2
    assert result.first_partial_ms == pytest.approx([400])  # sample 3200 was sent at 100.2
    assert result.final_ms == pytest.approx([700])  # sample 8000 was sent at 100.5
    assert result.finalise_ms == pytest.approx([300])
    assert (result.sent_samples, result.finals) == (16000, 1)


def test_speech_that_was_cut_did_not_start_or_end_there():
    watch = Watch()
    for index in range(20):
        watch.sent((index + 1) * 1600, 100.0 + (index + 1) * 0.1)
    watch.received(SpeechStarted(0, 0, 3200), 100.3)
    watch.received(SpeechEnded(0, 0, 16000), 101.5)
    watch.received(SpeechStarted(1, 0, 16000), 101.5)
    watch.received(SpeechStarted(2, 1, 16000), 101.5)  # of another channel
    watch.received(Partial(1, 0, 1, "", "x", 16000, 24000), 101.6)
    watch.received(final(0, 16000), 101.6)
    watch.received(SpeechEnded(1, 0, 28800), 102.0)
    watch.received(final(1, 32000), 102.1)
    watch.received(Partial(2, 1, 1, "", "x", 16000, 24000), 102.2)
    result = watch.result
    assert result.first_partial_ms == pytest.approx([1200])
    assert result.final_ms == pytest.approx([300])
    assert result.finalise_ms == pytest.approx([100, 100])
    assert result.finals == 2


def test_a_final_before_speech_ended_counts_from_its_end():
    watch = Watch()
    watch.sent(16000, 5.0)
    watch.received(final(0, 16000), 5.25)
    assert watch.result.final_ms == pytest.approx([250])
    assert watch.result.finalise_ms == []


def test_positions_that_were_never_sent_do_no_harm():
    watch = Watch()
    watch.received(final(0, 10), 1.0)
    watch.sent(100, 2.0)
    watch.received(final(1, 10_000), 3.0)
    assert watch.result.final_ms == [0.0, 1000.0]


def test_each_thing_that_must_hold_is_checked():
    watch = Watch()
    watch.sent(100, 0.0)
    watch.received(Error("recognition_failed", "oh", None, True, False), 1.0)
    watch.result.acked_samples = 99
    watch.result.check()
    assert watch.result.problems == [
        "recognition_failed: oh",
        "no done",
        "sent 100 samples, acked 99",
    ]
    good = Watch()
    good.sent(100, 0.0)
    good.received(Done(100, 0), 1.0)
    good.result.acked_samples = 100
    good.result.check()
    assert good.result.problems == []


def test_the_report_sums_up():
    results = [
        StreamResult(16000, 16000, True, 2, [], [100.0], [10.0, 30.0], [5.0], 1.0),
        StreamResult(32000, 0, False, 0, ["b", "a"], [300.0], [], [], 9.0),
        StreamResult(0, 0, False, 0, ["a"]),
    ]
    report = LoadReport.of(results, 4.0)
    assert (report.streams, report.failed, report.finals) == (3, 2, 2)
    assert (report.audio_seconds, report.wall_seconds, report.late_ms) == (3.0, 4.0, 9.0)
    assert report.problems == ("a", "b")
    assert report.first_partial == Latency(2, 100, 300, 300, 300)
    with (console := Console(width=100)).capture() as capture:
        console.print(report.table())
    assert "3 streams, 2 failed" in capture.get()
    assert "end of speech to final" in capture.get()


def test_files(tmp_path, clip):
    other = tmp_path / "b.wav"
    other.write_bytes(b"")
    assert find_files(clip) == (clip,)
    assert find_files(tmp_path) == (other, clip)
    with pytest.raises(SourceError):
        find_files(tmp_path / "missing")
    with pytest.raises(SourceError, match="cannot be decoded"):
        read_clip(other, None)


def test_what_is_not_sound_in_a_folder_is_passed_over(tmp_path, clip):
    (tmp_path / "manifest.jsonl").write_text("{}")
    (tmp_path / "clip.txt").write_text("words")
    (tmp_path / "folder.wav").mkdir()
    assert find_files(tmp_path) == (clip,)
    clip.unlink()
    with pytest.raises(SourceError, match=r"none in this folder of \.aac"):
        find_files(tmp_path)


def test_a_synthetic_voice_is_repeatable_and_has_pauses():
    sound = synthesise(3, 20.0)
    assert len(sound) == 20 * 32000
    assert synthesise(3, 20.0) == sound != synthesise(4, 20.0)
    level = np.abs(np.frombuffer(sound, "<i2").astype(float)).reshape(-1, 1600).max(axis=1)
    quiet = level < 200
    assert 0.1 < quiet.mean() < 0.7
    assert max(level) > 2000
    runs = "".join("." if each else "x" for each in quiet).split("x")
    assert max(map(len, runs)) >= 6, "a pause ends a segment"


def test_clips_are_repeated_or_cut(clip):
    whole = read_clip(clip, None)
    assert len(whole) == 9600
    assert read_clip(clip, 0.1) == whole[:3200]
    assert read_clip(clip, 0.5) == whole + whole[:6400]


async def test_streams_are_checked_against_a_real_server(serving, speaking_server, clip):
    async with serving(speaking_server(segment_samples=1600)) as server:
        plan = LoadPlan(server.url, 4, (clip,), Start(), ramp_seconds=0.1, chunk_ms=20)
        results = await run_streams(plan, 0, 4)
    assert [result.problems for result in results] == [[]] * 4
    assert [(r.sent_samples, r.acked_samples, r.finals) for r in results] == [(4800, 4800, 3)] * 4
    assert all(len(result.final_ms) == 3 for result in results)
    assert [bytes(heard.audio) for heard in server.heard] == [read_clip(clip, None)] * 4


async def test_without_files_the_streams_have_voices(serving, speaking_server):
    async with serving(speaking_server()) as server:
        plan = LoadPlan(server.url, 3, (), Start(), seconds=0.3, ramp_seconds=0.0, chunk_ms=20)
        results = await run_streams(plan, 1, 2)
    assert [result.problems for result in results] == [[]] * 2
    assert {bytes(heard.audio) for heard in server.heard} == {
        synthesise(1, 0.3),
        synthesise(2, 0.3),
    }


async def test_a_broken_stream_is_a_problem_of_its_own(serving, speaking_server, clip):
    async with serving(speaking_server(cut_after=[6])) as server:
        plan = LoadPlan(server.url, 2, (clip,), Start(), ramp_seconds=0.05, chunk_ms=20)
        results = await run_streams(plan, 0, 2)
    assert results[0].problems[0].startswith("the connection broke")
    assert results[1].problems == []


async def test_over_processes(serving, speaking_server, clip):
    async with serving(speaking_server()) as server:
        plan = LoadPlan(server.url, 3, (clip,), Start(), ramp_seconds=0.0)
        report = await asyncio.to_thread(run_load, plan, 2)
        assert (report.streams, report.failed) == (3, 0)
        report = await asyncio.to_thread(run_load, replace(plan, streams=1), 1)
        assert (report.streams, report.failed) == (1, 0)
    assert len(server.heard) == 4
