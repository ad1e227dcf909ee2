"""The engine's thread: who is told what, on which thread, whatever goes wrong."""

from __future__ import annotations

import threading

import pytest

from stream_server.config import SchedulerConfig
from stream_server.errors import (
    DeadlineExceeded,
    Draining,
    ModelError,
    Overloaded,
)
from stream_server.metrics import Metrics
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import RecogniserInfo
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
