"""At the pace of speech: the service's own driver and engine, and the same text."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from stream_protocol.messages import Done
from stream_server.evaluation.realtime import real_time
from stream_server.evaluation.simulation import simulate
from stream_server.evaluation.streaming import Stopwatch, StreamSettings
from stream_server.evaluation.track import follow, joined
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import SAMPLE_RATE


@pytest.mark.alone
def test_the_delays_are_those_of_virtual_time(voice: Callable[..., np.ndarray]) -> None:
    pause = np.zeros(SAMPLE_RATE, np.float32)
    pcm = np.concatenate([pause[:8000], voice(1.0), pause])
    watch = Stopwatch(FakeRecogniser())
    began = time.monotonic()
    with real_time(watch) as live:
        messages = live.send(watch, pcm, StreamSettings(8))
    assert time.monotonic() - began >= 2.5
    assert isinstance(messages[-1].message, Done)
    virtual = simulate(Stopwatch(FakeRecogniser()), pcm, StreamSettings(8))
    assert joined(messages) == joined(virtual) != ""
    real, simulated = follow(messages, len(pcm)), follow(virtual, len(pcm))
    assert len(real.final_ms) == len(simulated.final_ms) == 1
    # Loosely: this machine may be busy.
    assert -5 <= real.final_ms[0] - simulated.final_ms[0] < 1000
