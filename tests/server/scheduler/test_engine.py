"""The engine's thread: who is told what, on which thread, whatever goes wrong."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from stream_server.config import SchedulerConfig
from stream_server.errors import (
    DeadlineExceeded,
    Draining,
    ModelError,
    Overloaded,
    RecognitionFailed,
)
from stream_server.metrics import Metrics
from stream_server.recogniser.fake import FakeRecogniser, FakeRow
from stream_server.recogniser.interface import Hypothesis, RecogniserInfo, Row, Utterance
from stream_server.scheduler.engine import Engine, Load
from stream_server.scheduler.request import Decoded, Dropped, Failed, Reply, Request
from stream_server.tracing import Decode

BAD = 666
PATIENCE = 10.0
"""Seconds after which a test gives up; none takes anywhere near so long."""
ONE_ROW = RecogniserInfo("one", ("en",), 160_000, max_rows=1, default_steps=2)


def utterance(seed: int = 0, steps: int = 3) -> Utterance:
    return Utterance(np.full(9600, 0.1, np.float32), steps=steps, seed=seed)


def partial(stream: str, segment: int = 0, revision: int = 1, seed: int = 0) -> Request:
    return Request(stream, segment, revision, False, utterance(seed))


def final(stream: str, segment: int = 0, seed: int = 0, deadline: float | None = None) -> Request:
    return Request(stream, segment, 99, True, utterance(seed), deadline)


@dataclass(slots=True)
class Gated(FakeRecogniser):
    """A fake that takes a step only when the gate is open, and notes who calls it."""

    gate: threading.Event = field(default_factory=threading.Event)
    at_gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released as often as a step begins."""
    threads: set[str] = field(default_factory=set)
    sizes: list[int] = field(default_factory=list)
    """Rows of each step."""

    def start(self, utterances: Sequence[Utterance]) -> Sequence[FakeRow]:
        self.threads.add(threading.current_thread().name)
        return FakeRecogniser.start(self, utterances)

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        self.threads.add(threading.current_thread().name)
        self.sizes.append(len(rows))
        self.at_gate.release()
        assert self.gate.wait(PATIENCE)
        if any(row.utterance.seed == BAD for row in rows):
            raise RuntimeError("CUDA error: secret detail")
        return FakeRecogniser.step(self, rows)

    def await_step(self) -> None:
        assert self.at_gate.acquire(timeout=PATIENCE)


class Inbox:
    """Collects replies."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.threads: set[str] = set()
        self._changed = threading.Condition()

    def __call__(self, reply: Reply) -> None:
        with self._changed:
            self.replies.append(reply)
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()

    def wait(self, count: int = 1) -> list[Reply]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.replies) >= count, PATIENCE)
            return list(self.replies)


Build = Callable[..., Engine]


@pytest.fixture
def build() -> Iterator[Build]:
    engines: list[Engine] = []

    def make(recogniser: FakeRecogniser, *, start: bool = True, **options: object) -> Engine:
        options.setdefault("config", SchedulerConfig())
        engine = Engine(recogniser, **options)  # type: ignore[arg-type]
        engines.append(engine)
        if start:
            engine.start()
        return engine

    yield make
    for engine in engines:
        engine.close(PATIENCE)


def is_engine_alive() -> bool:
    return any(thread.name == "engine" for thread in threading.enumerate())


def test_a_request_is_decoded_on_the_engines_thread(build: Build) -> None:
    recogniser, inbox = Gated(), Inbox()
    recogniser.gate.set()
    engine = build(recogniser)
    assert engine.is_ready
    engine.submit(final("a"), inbox)
    (reply,) = inbox.wait()
    assert isinstance(reply, Decoded)
    assert reply.hypothesis.text
    assert reply.hypothesis.step == 3
    assert reply.queue_ms >= 0
    assert reply.decode_ms >= 0
    assert inbox.threads == recogniser.threads == {"engine"}
    assert engine.drain(PATIENCE)
    assert recogniser.live_rows == 0


def test_requests_before_the_start_wait_for_it(build: Build) -> None:
    recogniser, inbox = FakeRecogniser(), Inbox()
    engine = build(recogniser, start=False)
    engine.submit(final("a"), inbox)
    assert engine.load() == Load(queued=1, running=0)
    assert not engine.is_ready
    engine.start(wait=False)
    assert isinstance(inbox.wait()[0], Decoded)


def test_an_engine_starts_once(build: Build) -> None:
    engine = build(FakeRecogniser())
    with pytest.raises(RuntimeError, match="it is running"):
        engine.start()


def test_a_failed_warm_up_is_a_model_error_and_reaches_waiters(build: Build) -> None:
    class Cold(FakeRecogniser):
        def warm_up(self) -> None:
            raise RuntimeError("no kernel image")

    engine, inbox = build(Cold(), start=False), Inbox()
    engine.submit(final("a"), inbox)
    with pytest.raises(ModelError, match="no kernel image"):
        engine.start()
    assert engine.state == "broken"
    assert isinstance(inbox.wait()[0], Failed)


def test_rows_of_many_streams_share_a_step(build: Build) -> None:
    recogniser, inbox = Gated(), Inbox()
    engine = build(recogniser)
    engine.submit(final("a"), inbox)
    recogniser.await_step()
    for stream in "bcd":
        engine.submit(final(stream), inbox)
    assert engine.load() == Load(queued=3, running=1)
    recogniser.gate.set()
    inbox.wait(4)
    assert {reply.request.stream for reply in inbox.replies} == set("abcd")


def test_a_final_enters_at_the_next_boundary_though_partials_fill_the_rows(build: Build) -> None:
    recogniser, inbox = Gated(info=ONE_ROW), Inbox()
    engine = build(recogniser)
    engine.submit(partial("a"), inbox)
    recogniser.await_step()
    engine.submit(partial("b"), inbox)
    engine.submit(final("c"), inbox)
    recogniser.gate.set()
    replies = inbox.wait(3)
    assert [reply.request.stream for reply in replies] == ["c", "a", "b"]
    assert all(isinstance(reply, Decoded) for reply in replies)


@pytest.mark.parametrize(("wish", "most"), [(0, 3), (2, 2), (64, 3)])
def test_max_rows_is_the_smaller_of_wish_and_advice(build: Build, wish: int, most: int) -> None:
    info = RecogniserInfo("three", ("en",), 160_000, max_rows=3, default_steps=2)
    recogniser, inbox = Gated(info=info), Inbox()
    engine = build(recogniser, start=False, config=SchedulerConfig(max_rows=wish))
    for stream in "abcde":
        engine.submit(final(stream), inbox)
    recogniser.gate.set()
    engine.start()
    inbox.wait(5)
    assert max(recogniser.sizes) == most


def test_overload_is_refused_at_the_door(build: Build) -> None:
    recogniser, inbox, refused = Gated(info=ONE_ROW), Inbox(), Inbox()
    engine = build(recogniser, config=SchedulerConfig(max_queued=1, reserved_finals=1))
    engine.submit(final("a"), inbox)
    recogniser.await_step()
    engine.submit(final("b"), inbox)
    with pytest.raises(Overloaded):
        engine.submit(partial("c"), refused)
    engine.submit(final("d"), inbox)
    with pytest.raises(Overloaded):
        engine.submit(final("e"), refused)
    recogniser.gate.set()
    inbox.wait(3)
    assert engine.drain(PATIENCE)
    assert refused.replies == []


def test_replaced_requests_are_told_on_the_engines_thread(build: Build) -> None:
    recogniser, inbox = Gated(info=ONE_ROW), Inbox()
    engine = build(recogniser)
    engine.submit(final("a"), inbox)
    recogniser.await_step()
    engine.submit(partial("b", revision=1), inbox)
    engine.submit(partial("b", revision=2), inbox)
    recogniser.gate.set()
    replies = inbox.wait(3)
    assert Dropped(partial("b", revision=1), "replaced") in replies
    assert inbox.threads == {"engine"}


def test_cancel_releases_a_running_row_at_the_next_boundary(build: Build) -> None:
    recogniser, inbox = Gated(), Inbox()
    engine = build(recogniser)
    long = Request("a", 0, 1, True, utterance(steps=50))
    engine.submit(long, inbox)
    recogniser.await_step()
    engine.submit(final("b"), inbox)
    engine.cancel("a")
    recogniser.gate.set()
    assert inbox.wait(2)[0] == Dropped(long, "cancelled")
    assert isinstance(inbox.replies[1], Decoded)
    assert recogniser.sizes == [1, 1, 1, 1], "one step of the long one, then it is gone"
    assert engine.drain(PATIENCE)
    assert recogniser.live_rows == 0


def test_a_partial_is_made_a_final_on_the_way(build: Build) -> None:
    recogniser, inbox = Gated(info=ONE_ROW), Inbox()
    engine = build(recogniser)
    engine.submit(partial("a"), inbox)
    recogniser.await_step()
    engine.submit(partial("b"), inbox)
    engine.promote("b", 0)
    engine.promote("a", 0)
    engine.promote("nobody", 0)
    recogniser.gate.set()
    first, second = inbox.wait(2)
    assert isinstance(first, Decoded)
    assert isinstance(second, Decoded)
    assert (first.request.stream, second.request.stream) == ("a", "b")
    assert first.request.is_final
    assert second.request.is_final
    assert recogniser.sizes == [1] * 6, "nothing was begun again"


def test_cancel_of_a_waiting_request_wakes_an_engine_that_has_nothing_else(build: Build) -> None:
    recogniser, inbox = Gated(info=ONE_ROW), Inbox()
    engine = build(recogniser)
    engine.submit(final("a"), inbox)
    recogniser.await_step()
    engine.submit(final("b", 0), inbox)
    engine.submit(final("b", 1), inbox)
    engine.cancel("b", 1)
    engine.cancel("nobody")
    recogniser.gate.set()
    replies = inbox.wait(3)
    assert Dropped(final("b", 1), "cancelled") in replies
    assert sum(isinstance(reply, Decoded) for reply in replies) == 2


def test_expired_requests_are_told(build: Build) -> None:
    now = [100.0]
    recogniser, inbox = Gated(info=ONE_ROW), Inbox()
    engine = build(recogniser, clock=lambda: now[0])
    engine.submit(final("a"), inbox)
    recogniser.await_step()
    engine.submit(partial("b"), inbox)
    engine.submit(final("c", deadline=101.0), inbox)
    now[0] = 103.0
    recogniser.gate.set()
    replies = {reply.request.stream: reply for reply in inbox.wait(3)}
    assert isinstance(replies["a"], Decoded)
    assert replies["b"] == Dropped(partial("b"), "expired")
    assert isinstance(replies["c"], Failed)
    assert isinstance(replies["c"].error, DeadlineExceeded)


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


def test_replies_are_called_outside_of_the_lock(build: Build) -> None:
    engine, inbox = build(FakeRecogniser()), Inbox()
    loads: list[Load] = []

    def ask(_: Reply) -> None:
        # From another thread: the engine's own could enter its lock twice.
        thread = threading.Thread(target=lambda: loads.append(engine.load()), daemon=True)
        thread.start()
        thread.join(PATIENCE)
        engine.submit(final("next"), inbox)

    engine.submit(final("a"), ask)
    assert isinstance(inbox.wait()[0], Decoded)
    assert len(loads) == 1


def test_drain_refuses_the_new_and_finishes_the_old(build: Build) -> None:
    recogniser, inbox = Gated(info=ONE_ROW), Inbox()
    engine = build(recogniser)
    for segment in range(3):
        engine.submit(final("a", segment), inbox)
    assert not engine.drain(0.0)
    assert engine.state == "draining"
    assert not engine.is_ready
    with pytest.raises(Draining):
        engine.submit(final("b"), inbox)
    recogniser.gate.set()
    assert engine.drain(PATIENCE)
    assert [type(reply) for reply in inbox.replies] == [Decoded] * 3


def test_close_fails_what_is_left_and_ends_the_thread(build: Build) -> None:
    recogniser, inbox = Gated(info=ONE_ROW), Inbox()
    engine = build(recogniser)
    engine.submit(Request("a", 0, 1, True, utterance(steps=50)), inbox)
    recogniser.await_step()
    engine.submit(final("b"), inbox)
    threading.Timer(0.02, recogniser.gate.set).start()
    engine.close(PATIENCE)
    assert [type(reply) for reply in inbox.replies] == [Failed, Failed]
    assert all(isinstance(reply.error, Draining) for reply in inbox.replies)  # type: ignore[union-attr]
    assert not is_engine_alive()
    assert recogniser.live_rows == 0
    with pytest.raises(Draining):
        engine.submit(final("c"), inbox)
    engine.close()


def test_close_of_an_engine_that_never_started(build: Build) -> None:
    inbox = Inbox()
    engine = build(FakeRecogniser(), start=False)
    engine.submit(final("a"), inbox)
    engine.close()
    assert [type(reply) for reply in inbox.replies] == [Failed]
    with pytest.raises(RuntimeError):
        engine.start()


def test_close_gives_up_a_thread_that_hangs_and_nobody_is_told_twice(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    recogniser, inbox = Gated(), Inbox()
    engine = build(recogniser)
    engine.submit(final("a"), inbox)
    recogniser.await_step()
    engine.submit(final("b"), inbox)
    engine.close(0.01)
    assert [type(reply) for reply in inbox.replies] == [Failed, Failed]
    assert "did not end" in caplog.text
    recogniser.gate.set()
    engine.close(PATIENCE)
    assert len(inbox.replies) == 2
    assert recogniser.live_rows == 0


def test_close_from_a_reply_does_not_wait_for_itself(build: Build) -> None:
    engine, inbox = build(FakeRecogniser()), Inbox()
    done = threading.Event()

    def close(_: Reply) -> None:
        engine.close(PATIENCE)
        done.set()

    engine.submit(final("a"), close)
    assert done.wait(PATIENCE)
    assert inbox.replies == []


def test_metrics_are_counted(build: Build) -> None:
    metrics = Metrics()
    recogniser, inbox = Gated(info=ONE_ROW), Inbox()
    engine = build(recogniser, metrics=metrics)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"diffscribe_{name}", labels)

    assert value("engine_up") == 1
    engine.submit(final("a"), inbox)
    recogniser.await_step()
    engine.submit(final("bad", seed=BAD), inbox)
    engine.submit(partial("b", revision=1), inbox)
    engine.submit(partial("b", revision=2), inbox)
    recogniser.gate.set()
    inbox.wait(4)
    assert engine.drain(PATIENCE)
    assert value("decode_seconds_count", kind="final") == 1
    assert value("decode_seconds_count", kind="partial") == 1
    assert value("queue_seconds_count") == 2
    assert value("real_time_factor_count") == 1
    assert value("partials_dropped_total", reason="replaced") == 1
    assert value("requests_failed_total", code="recognition_failed") == 1
    assert value("steps_total") == 7
    engine.close(PATIENCE)
    assert value("engine_up") == 0
    assert value("rows") in (0, 1)


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

    told, inbox = Told(), Inbox()
    engine = build(FakeRecogniser(step_seconds=0.01), tracing=told)
    engine.submit(final("a", segment=4), inbox)
    inbox.wait()
    assert engine.drain(PATIENCE)
    (decode,) = told.decodes
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
