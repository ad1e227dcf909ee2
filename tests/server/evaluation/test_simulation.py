"""Virtual time: the delays are those that waiting would show, and nobody waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from stream_protocol.messages import Done, Final, Partial, Ready
from stream_server.evaluation.simulation import simulate
from stream_server.evaluation.streaming import Stopwatch, StreamSettings
from stream_server.evaluation.track import Timed, follow, joined
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import SAMPLE_RATE, Hypothesis, Row

pytestmark = pytest.mark.alone

PAUSE = np.zeros(SAMPLE_RATE, np.float32)


@pytest.fixture
def pcm(voice: Callable[..., np.ndarray]) -> np.ndarray:
    return np.concatenate([PAUSE, voice(2.0), PAUSE, voice(1.0, 160), PAUSE])


def kinds(messages: Sequence[Timed], kind: type) -> list[Timed]:
    return [each for each in messages if isinstance(each.message, kind)]


def test_a_stream_is_served_to_its_end_faster_than_it_is_spoken(pcm: np.ndarray) -> None:
    began = time.monotonic()
    messages = simulate(Stopwatch(FakeRecogniser()), pcm, StreamSettings(8))
    assert time.monotonic() - began < len(pcm) / SAMPLE_RATE
    assert isinstance(messages[0].message, Ready)
    assert isinstance(messages[-1].message, Done)
    assert messages[-1].message.samples == len(pcm)
    assert len(kinds(messages, Final)) == 2
    assert len(kinds(messages, Partial)) >= 5
    assert joined(messages)
    assert [each.at for each in messages] == sorted(each.at for each in messages)


def test_a_final_comes_when_the_pause_has_proved_it(pcm: np.ndarray) -> None:
    messages = simulate(Stopwatch(FakeRecogniser()), pcm, StreamSettings(8))
    track = follow(messages, len(pcm))
    # The pause is 500 ms, a message of the client 100 ms; the voice fades out of the detector.
    assert all(450 <= delay <= 800 for delay in track.final_ms)
    assert all(200 <= delay <= 900 for delay in track.first_partial_ms)


def test_a_slow_model_shows_in_the_delays(pcm: np.ndarray) -> None:
    quick = follow(simulate(Stopwatch(FakeRecogniser()), pcm, StreamSettings(8)), len(pcm))
    # A pause is taken for the end 300 ms before it is one, and the decode begins then.
    slow_watch = Stopwatch(FakeRecogniser(step_seconds=0.06))
    slow = follow(simulate(slow_watch, pcm, StreamSettings(8)), len(pcm))
    # Roughly: it is real sleep, and audio comes in pieces of 100 ms.
    assert 60 <= slow.finalise_ms[0] - quick.finalise_ms[0] <= 1500
    assert slow.partials < quick.partials


@dataclass
class Broken(FakeRecogniser):
    """Cannot take a step."""

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        """Fail."""
        raise RuntimeError("no step")


def test_a_model_that_fails_ends_the_measurement(pcm: np.ndarray) -> None:
    with pytest.raises(RuntimeError, match="no step"):
        simulate(Stopwatch(Broken()), pcm, StreamSettings(8))


def test_silence_brings_no_text() -> None:
    messages = simulate(Stopwatch(FakeRecogniser()), np.tile(PAUSE, 5), StreamSettings(8))
    assert joined(messages) == ""
    assert kinds(messages, Final) == []
