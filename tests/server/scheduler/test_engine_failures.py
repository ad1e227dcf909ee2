"""What goes wrong in the engine harms only whom it must, and everybody gets a reply."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from stream_server.config import SchedulerConfig
from stream_server.errors import (
    Draining,
    Overloaded,
    RecognitionFailed,
)
from stream_server.metrics import Metrics
from stream_server.recogniser.fake import FakeRecogniser, FakeRow
from stream_server.recogniser.interface import Hypothesis, Row, Utterance
from stream_server.scheduler.engine import Load
from stream_server.scheduler.request import Decoded, Dropped, Failed, Reply, Request
from tests.server.scheduler.gated import (
    BAD,
    ONE_ROW,
    PATIENCE,
    Build,
    Gated,
    Inbox,
    final,
    partial,
    utterance,
)


def test_only_the_bad_request_fails_and_without_detail(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    recogniser, inbox = Gated(), Inbox()
    engine = build(recogniser)
    engine.submit(final("first"), inbox)
    recogniser.await_step()
    for stream, seed in (("a", 1), ("bad", BAD), ("c", 2)):
        engine.submit(final(stream, seed=seed), inbox)
    recogniser.gate.set()
    replies = {reply.request.stream: reply for reply in inbox.wait(4)}
    assert {stream for stream, reply in replies.items() if isinstance(reply, Decoded)} == {
        "first",
        "a",
        "c",
    }
    bad = replies["bad"]
    assert isinstance(bad, Failed)
    assert isinstance(bad.error, RecognitionFailed)
    assert "secret" not in str(bad.error)
    assert "secret detail" in caplog.text
    assert engine.is_ready
    assert engine.drain(PATIENCE)
    assert recogniser.live_rows == 0


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), RuntimeError("CUDA error")])
@pytest.mark.parametrize("where", ["start", "step"])
def test_nothing_that_the_recogniser_raises_ends_the_loop(
    build: Build, error: BaseException, where: str
) -> None:
    class Odd(FakeRecogniser):
        def start(self, utterances: Sequence[Utterance]) -> Sequence[FakeRow]:
            if where == "start" and utterances[0].seed == BAD:
                raise error
            return super().start(utterances)

        def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
            if where == "step" and rows[0].utterance.seed == BAD:
                raise error
            return super().step(rows)

    engine, inbox = build(Odd()), Inbox()
    engine.submit(final("bad", seed=BAD), inbox)
    assert isinstance(inbox.wait(1)[0], Failed)
    engine.submit(final("good"), inbox)
    assert isinstance(inbox.wait(2)[1], Decoded)
    assert engine.is_ready


@pytest.mark.parametrize("error", [ValueError("defect"), SystemExit(1)])
def test_a_defect_of_the_loop_reaches_every_waiter(build: Build, error: BaseException) -> None:
    broken = threading.Event()

    def clock() -> float:
        if broken.is_set() and threading.current_thread().name == "engine":
            raise error
        return 0.0

    metrics = Metrics()
    recogniser, inbox = Gated(info=ONE_ROW), Inbox()
    engine = build(recogniser, clock=clock, metrics=metrics)
    engine.submit(final("running"), inbox)
    recogniser.await_step()
    engine.submit(final("queued"), inbox)
    engine.submit(partial("replaced", revision=1), inbox)
    engine.submit(partial("replaced", revision=2), inbox)
    engine.cancel("nobody")
    broken.set()
    recogniser.gate.set()
    replies = inbox.wait(4)
    assert all(isinstance(reply, Failed | Dropped) for reply in replies)
    assert sum(isinstance(reply, Failed) for reply in replies) == 3
    assert engine.state == "broken"
    assert not engine.is_ready
    assert engine.error is error
    assert engine.load() == Load(0, 0)
    with pytest.raises(Draining):
        engine.submit(final("late"), inbox)
    engine.close(PATIENCE)
    assert engine.state == "broken"
    assert b"diffscribe_engine_up 0.0" in metrics.render()
    assert len(inbox.replies) == 4
    assert recogniser.live_rows == 0


def test_a_reply_that_raises_harms_nobody(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    def explode(_: Reply) -> None:
        raise SystemExit("loop is closed")

    recogniser, inbox = Gated(), Inbox()
    engine = build(recogniser)
    engine.submit(final("a"), explode)
    engine.submit(final("b"), inbox)
    recogniser.gate.set()
    assert isinstance(inbox.wait()[0], Decoded)
    assert engine.drain(PATIENCE)
    assert "the reply to a/0 failed" in caplog.text
    assert engine.error is None


def test_metrics_that_raise_harm_nobody(build: Build) -> None:
    class Bad(Metrics):
        def record_decoded(self, **_: object) -> None:
            raise RuntimeError("no")

    engine, inbox = build(FakeRecogniser(), metrics=Bad()), Inbox()
    engine.submit(final("a"), inbox)
    engine.submit(final("b"), inbox)
    assert all(isinstance(reply, Decoded) for reply in inbox.wait(2))
    assert engine.drain(PATIENCE)


class Moody(FakeRecogniser):
    """Fails now and then, as a whole or for certain utterances."""

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(7)

    def start(self, utterances: Sequence[Utterance]) -> Sequence[FakeRow]:
        if self.random.random() < 0.05:
            raise SystemExit("moody")
        return super().start(utterances)

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        if self.random.random() < 0.05 or any(row.utterance.seed == BAD for row in rows):
            raise RuntimeError("CUDA error")
        return super().step(rows)


def test_many_threads_cancels_and_failures(build: Build) -> None:
    """Every request that was taken gets one reply, whatever else goes on."""
    recogniser = Moody()
    config = SchedulerConfig(max_rows=4, max_queued=16, reserved_finals=16)
    engine = build(recogniser, config=config)
    replies: Counter[tuple[str, int, int]] = Counter()
    kinds: Counter[str] = Counter()
    taken: list[tuple[str, int, int]] = []
    lock = threading.Lock()

    def note(reply: Reply) -> None:
        request = reply.request
        with lock:
            replies[request.stream, request.segment, request.revision] += 1
            kinds[type(reply).__name__] += 1
            if request.is_final and isinstance(reply, Dropped):
                assert reply.reason == "cancelled"
        if request.utterance.seed == BAD and not isinstance(reply, Failed | Dropped):
            kinds["a bad one was decoded"] += 1
        if request.revision % 7 == 0:
            raise RuntimeError("the reader has gone")

    def run_stream(name: str) -> None:
        chance = random.Random(name)
        for segment in range(8):
            for revision in range(1, 9):
                is_final = revision == 8
                seed = BAD if chance.random() < 0.05 else segment
                spoken = utterance(seed, steps=chance.randint(1, 6))
                try:
                    engine.submit(Request(name, segment, revision, is_final, spoken), note)
                except Overloaded:
                    continue
                with lock:
                    taken.append((name, segment, revision))
                if chance.random() < 0.05:
                    engine.cancel(name, segment if chance.random() < 0.5 else None)

    logging.getLogger("stream_server").setLevel(logging.CRITICAL + 1)
    try:
        threads = [threading.Thread(target=run_stream, args=(f"s{index}",)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert engine.drain(PATIENCE)
    finally:
        logging.getLogger("stream_server").setLevel(logging.NOTSET)
    assert engine.error is None
    assert replies == Counter(taken)
    assert kinds["Decoded"] > 0
    assert kinds["Failed"] > 0
    assert kinds["a bad one was decoded"] == 0
    assert engine.load() == Load(0, 0)
    engine.close(PATIENCE)
    assert recogniser.live_rows == 0
