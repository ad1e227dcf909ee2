"""Clips as streams: how they are sent, and what is kept of what came back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stream_protocol.messages import Error
from stream_server.errors import RecognitionFailed
from stream_server.evaluation.manifest import Selection, read_examples
from stream_server.evaluation.simulation import simulate
from stream_server.evaluation.streaming import (
    AFTER,
    BEFORE,
    Stopwatch,
    StreamSettings,
    pieces,
    stream,
)
from stream_server.evaluation.track import Timed
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import SAMPLE_RATE, Utterance


def test_pieces_are_what_a_client_sends() -> None:
    pcm = np.linspace(-2, 2, SAMPLE_RATE // 4, dtype=np.float32)
    sent = list(pieces(pcm, 100))
    assert [end for end, _ in sent] == [1600, 3200, 4000]
    data = np.frombuffer(b"".join(chunk for _, chunk in sent), "<i2")
    assert (data.min(), data.max(), len(data)) == (-32768, 32767, 4000)


def test_the_stopwatch_counts_computing_alone() -> None:
    watch = Stopwatch(FakeRecogniser(step_seconds=0.01))
    watch.warm_up()
    assert watch.seconds == 0
    rows = watch.start([Utterance(np.ones(4800, np.float32), 2)])
    watch.step(rows)
    watch.step(rows)
    watch.release(rows)
    assert watch.seconds >= 0.02
    assert watch.info.name == "fake"


def test_every_clip_is_a_stream_of_its_own(write_manifest: Callable[..., Path]) -> None:
    clips = [("a.wav", "x", "s", 1.5), ("b.wav", "x", "s", 0.9, "xx")]
    examples = read_examples(write_manifest(clips), Selection())
    watch = Stopwatch(FakeRecogniser())
    first, second = stream(watch, examples, StreamSettings(4), simulate)
    assert first.audio == pytest.approx(1.5 + (BEFORE + AFTER) / SAMPLE_RATE)
    assert len(first.text.split()) > len(second.text.split()) > 0
    assert first.steps == 4
    assert first.seconds > 0
    assert first.track is not None
    assert first.track.words == len(first.text.split())


def test_a_stream_that_fails_is_no_result(write_manifest: Callable[..., Path]) -> None:
    examples = read_examples(write_manifest([("a.wav", "x", "s", 0.5)]), Selection())

    def fail(*_: object) -> list[Timed]:
        error = Error("recognition_failed", "no luck", None, retryable=True, fatal=False)
        return [Timed(1.0, error)]

    with pytest.raises(RecognitionFailed, match=r"a\.wav: recognition_failed: no luck"):
        stream(Stopwatch(FakeRecogniser()), examples, StreamSettings(4), fail)
