"""What the engine measures and tells: how many sessions fit, ages, times, the guard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from stream_server.config import SchedulerConfig
from stream_server.errors import ModelError
from stream_server.metrics import Metrics
from stream_server.recogniser.fake import FakeRecogniser, FakeRow
from stream_server.recogniser.interface import Hypothesis, Row, Utterance
from stream_server.scheduler.engine import Engine
from stream_server.scheduler.request import Decoded, Reply
from stream_server.tracing import Decode
from tests.server.scheduler.gated import ONE_ROW, PATIENCE, Build, Gated, Inbox, final


def test_an_engine_that_measures_knows_how_many_fit(build: Build) -> None:
    metrics = Metrics()
    engine = build(FakeRecogniser(step_seconds=0.02), metrics=metrics, measures=True)
    fits = engine.fits(0)
    assert fits is not None
    # 8 steps of 20 ms in turns of 32 rows, for each 4 s that a session speaks: hundreds fit.
    assert 10 < fits < 1000
    assert metrics.registry.get_sample_value("diffscribe_sessions_capacity") == fits
    assert build(FakeRecogniser()).fits(3) is None
    unbound = build(FakeRecogniser(), measures=True, config=SchedulerConfig(busy_share=0.0))
    assert unbound.fits(3) is None


class Busy(FakeRecogniser):
    """A fake that takes its time by a clock of its own, long where its machine is busy."""

    now = 0.0
    is_busy = True
    is_broken = False

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        if Busy.is_broken:
            raise RuntimeError("no memory")
        Busy.now += 4.0 if Busy.is_busy else 0.02
        return FakeRecogniser.step(self, rows)


@pytest.fixture
def busy(build: Build, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine that was started while its machine was busy."""
    for name, value in (("now", 0.0), ("is_busy", True), ("is_broken", False)):
        monkeypatch.setattr(Busy, name, value)
    engine = build(Busy(), measures=True, clock=lambda: Busy.now)
    assert engine.fits(0) == 1
    Busy.is_busy = False
    return engine


def fits_later(engine: Engine, wanted: int) -> bool:
    """Whether more than ``wanted`` fit within a moment."""
    end = time.monotonic() + PATIENCE
    while (engine.fits(1) or 0) <= wanted:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_full_engine_that_has_nothing_to_do_measures_again(busy: Engine) -> None:
    assert busy.fits(1) == 1
    time.sleep(0.05)
    assert busy.fits(1) == 1, "not at once: those inside may be about to speak"
    Busy.now += 6.0
    assert fits_later(busy, 10)


def test_an_engine_that_has_room_does_not_measure_again(busy: Engine) -> None:
    Busy.now += 60.0
    before = Busy.now
    for _ in range(10):
        assert busy.fits(0) == 1
        time.sleep(0.01)
    assert Busy.now == before


def test_an_engine_that_cannot_measure_again_goes_on(busy: Engine, caplog) -> None:
    Busy.is_broken = True
    Busy.now += 6.0
    assert busy.fits(1) == 1
    end = time.monotonic() + PATIENCE
    while "could not be measured again" not in caplog.text and time.monotonic() < end:
        time.sleep(0.01)
    Busy.is_broken = False
    inbox = Inbox()
    busy.submit(final("a"), inbox)
    (reply,) = inbox.wait()
    assert isinstance(reply, Decoded)
    assert "could not be measured again" in caplog.text


def test_a_model_that_cannot_be_measured_does_not_start(build: Build) -> None:
    class Broken(FakeRecogniser):
        def start(self, utterances: Sequence[Utterance]) -> Sequence[FakeRow]:
            raise RuntimeError("no memory")

    engine = build(Broken(), start=False, measures=True)
    with pytest.raises(ModelError, match="no memory"):
        engine.start()


def test_the_age_of_what_waits_is_known(build: Build) -> None:
    now = [0.0]
    recogniser, inbox = Gated(ONE_ROW), Inbox()
    engine = build(recogniser, clock=lambda: now[0])
    assert engine.queue_age() == 0
    engine.submit(final("a"), inbox)
    recogniser.await_step()
    engine.submit(final("b"), inbox)
    now[0] = 3.0
    assert engine.queue_age() == 3.0
    recogniser.gate.set()
    inbox.wait(2)
    assert engine.queue_age() == 0


def test_each_decode_is_told_with_its_times(build: Build) -> None:
    class Told:
        def __init__(self) -> None:
            self.decodes: list[Decode] = []

        def record(self, decode: Decode) -> None:
            self.decodes.append(decode)

    told, inbox, known = Told(), Inbox(), list[Decode]()

    def receive(reply: Reply) -> None:  # a session may end with its last reply
        known.extend(told.decodes)
        inbox(reply)

    engine = build(FakeRecogniser(step_seconds=0.01), tracing=told)
    engine.submit(final("a", segment=4), receive)
    inbox.wait()
    (decode,) = known
    assert (decode.session, decode.segment, decode.is_final) == ("a", 4, True)
    assert (decode.audio_seconds, decode.steps) == (0.6, 3)
    assert decode.steps_seconds >= 0.03
    assert decode.encode_seconds < decode.steps_seconds


def test_decodes_that_the_guard_touched_are_counted(build: Build) -> None:
    class Guarded(FakeRecogniser):
        def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
            return [replace(each, is_guarded=True) for each in FakeRecogniser.step(self, rows)]

    metrics, inbox = Metrics(), Inbox()
    engine = build(Guarded(), metrics=metrics)
    engine.submit(final("a"), inbox)
    inbox.wait()
    assert engine.drain(PATIENCE)
    count = metrics.registry.get_sample_value
    assert count("diffscribe_guard_hits_total", {"kind": "final"}) == 1
    assert count("diffscribe_guard_hits_total", {"kind": "partial"}) == 0
