"""The scheduler's rules, one by one, and then against a model that does anything at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stream_server.config import SchedulerConfig
from stream_server.errors import DeadlineExceeded, Overloaded, RecognitionFailed
from stream_server.recogniser.interface import Hypothesis, Utterance
from stream_server.scheduler.request import Decoded, Dropped, Failed, Reply, Request
from stream_server.scheduler.scheduler import FINAL_PATIENCE, Outcome, Plan, Scheduler

UTTERANCE = Utterance(np.zeros(0, np.float32), steps=4)


def partial(
    stream: str, segment: int = 0, revision: int = 1, deadline: float | None = None
) -> Request:
    return Request(stream, segment, revision, False, UTTERANCE, deadline)


def final(
    stream: str, segment: int = 0, revision: int = 99, deadline: float | None = None
) -> Request:
    return Request(stream, segment, revision, True, UTTERANCE, deadline)


def hypothesis(step: int, is_final: bool) -> Hypothesis:
    return Hypothesis((), (), (), step=step, is_final=is_final)


def scheduler(max_rows: int = 2, **config: int) -> Scheduler:
    return Scheduler(SchedulerConfig(**config), max_rows)


def admitted(plan: Plan) -> list[Request]:
    return [admission.request for admission in plan.admit]


def dropped(outcomes: object) -> list[tuple[Request, str]]:
    assert isinstance(outcomes, list | tuple)
    replies = [outcome.reply for outcome in outcomes]
    assert all(isinstance(reply, Dropped) for reply in replies)
    return [(reply.request, reply.reason) for reply in replies]


def test_rows_must_be_at_least_one() -> None:
    with pytest.raises(ValueError, match="max_rows=0"):
        scheduler(0)


def test_requests_join_between_steps() -> None:
    it = scheduler()
    it.submit(partial("a"), 0.0)
    assert admitted(it.schedule(0.0)) == [partial("a")]
    assert it.complete({0: hypothesis(1, False)}, {}, 0.1) == []
    it.submit(partial("b"), 0.1)
    plan = it.schedule(0.1)
    assert admitted(plan) == [partial("b")]
    assert plan.step == (0, 1)


def test_finished_rows_leave_at_once_with_their_times() -> None:
    it = scheduler()
    it.submit(final("a"), 1.0)
    it.schedule(1.5)
    it.complete({0: hypothesis(1, False)}, {}, 1.6)
    done = hypothesis(2, True)
    (outcome,) = it.complete({0: done}, {}, 1.75)
    assert outcome.number == 0
    assert isinstance(outcome.reply, Decoded)
    assert outcome.reply.hypothesis is done
    assert outcome.reply.queue_ms == pytest.approx(500)
    assert outcome.reply.decode_ms == pytest.approx(250)
    assert it.is_idle


def test_canvases_of_a_traced_row_come_with_its_reply() -> None:
    it = scheduler()
    it.submit(final("a"), 0.0)
    it.schedule(0.0)
    it.complete({0: replace(hypothesis(1, False), canvas="x y")}, {}, 0.1)
    (outcome,) = it.complete({0: replace(hypothesis(2, True), canvas="one two")}, {}, 0.2)
    assert isinstance(outcome.reply, Decoded)
    assert outcome.reply.canvases == ("x y", "one two")


def test_failed_rows_fail() -> None:
    it = scheduler()
    it.submit(final("a"), 0.0)
    it.schedule(0.0)
    error = RecognitionFailed("no")
    assert it.complete({}, {0: error}, 0.1) == [Outcome(0, Failed(final("a"), error))]
    assert it.is_idle


def test_results_of_rows_that_left_are_passed_over() -> None:
    it = scheduler()
    assert it.complete({7: hypothesis(1, True)}, {8: RecognitionFailed("no")}, 0.0) == []


def test_finals_go_before_partials_and_the_due_before_the_rest() -> None:
    it = scheduler(max_rows=4)
    it.submit(partial("p", deadline=1.0), 0.0)
    it.submit(final("file", deadline=300.0), 0.0)
    it.submit(final("live"), 0.2)
    it.submit(final("urgent", deadline=0.2 + FINAL_PATIENCE / 2), 0.3)
    plan = it.schedule(0.3)
    assert [request.stream for request in admitted(plan)] == ["urgent", "live", "file", "p"]


def test_a_file_job_is_not_starved_by_live_finals() -> None:
    it = scheduler(max_rows=1)
    it.submit(final("file", deadline=30.0), 0.0)
    it.submit(final("live"), 30.0 - FINAL_PATIENCE + 1)
    assert admitted(it.schedule(29.0)) == [final("file", deadline=30.0)]


def test_a_newer_partial_replaces_a_waiting_one() -> None:
    it = scheduler()
    it.submit(partial("a", revision=1), 0.0)
    submission = it.submit(partial("a", revision=2), 0.1)
    assert dropped(submission.dropped) == [(partial("a", revision=1), "replaced")]
    assert admitted(it.schedule(0.2)) == [partial("a", revision=2)]


def test_an_older_partial_that_comes_late_is_dropped_itself() -> None:
    it = scheduler()
    it.submit(partial("a", revision=2), 0.0)
    submission = it.submit(partial("a", revision=1), 0.1)
    assert dropped(submission.dropped) == [(partial("a", revision=1), "replaced")]
    assert submission.dropped[0].number == submission.number
    assert admitted(it.schedule(0.2)) == [partial("a", revision=2)]


def test_a_final_replaces_a_waiting_partial_of_its_segment_only() -> None:
    it = scheduler(max_rows=4)
    it.submit(partial("a", 0), 0.0)
    it.submit(partial("a", 1), 0.0)
    submission = it.submit(final("a", 0), 0.0)
    assert dropped(submission.dropped) == [(partial("a", 0), "replaced")]
    assert admitted(it.schedule(0.0)) == [final("a", 0), partial("a", 1)]


@pytest.mark.parametrize("is_running", [False, True])
def test_a_partial_after_its_final_is_dropped(is_running: bool) -> None:
    it = scheduler()
    it.submit(final("a"), 0.0)
    if is_running:
        it.schedule(0.0)
    submission = it.submit(partial("a", revision=200), 0.0)
    assert dropped(submission.dropped) == [(partial("a", revision=200), "replaced")]


def test_a_running_partial_ends_with_its_final() -> None:
    it = scheduler()
    it.submit(partial("a"), 0.0)
    it.schedule(0.0)
    it.submit(final("a"), 0.0)
    assert it.schedule(0.0).step == (0, 1)
    outcomes = it.complete({0: hypothesis(1, False), 1: hypothesis(1, True)}, {}, 0.1)
    assert [type(outcome.reply) for outcome in outcomes] == [Decoded]
    plan = it.schedule(0.1)
    assert plan.release == (0,)
    assert dropped(plan.dropped) == [(partial("a"), "replaced")]


def test_a_partial_that_ends_with_its_final_is_heard_first() -> None:
    it = scheduler()
    it.submit(final("b"), 0.0)
    it.submit(partial("a"), 0.0)
    it.schedule(0.0)
    it.complete({0: hypothesis(1, True)}, {}, 0.0)
    it.submit(final("a"), 0.0)
    it.schedule(0.0)
    ended = {2: hypothesis(1, True), 1: hypothesis(2, True)}
    outcomes = it.complete(ended, {}, 0.1)
    assert [outcome.reply.request.is_final for outcome in outcomes] == [False, True]


def test_revisions_of_a_segment_do_not_run_side_by_side() -> None:
    it = scheduler(max_rows=4)
    it.submit(partial("a", revision=1), 0.0)
    it.schedule(0.0)
    it.submit(partial("a", revision=2), 0.0)
    assert admitted(it.schedule(0.0)) == []
    it.complete({0: hypothesis(1, True)}, {}, 0.1)
    assert admitted(it.schedule(0.1)) == [partial("a", revision=2)]


def test_a_final_enters_at_the_next_boundary_though_partials_fill_the_rows() -> None:
    it = scheduler(max_rows=2)
    it.submit(partial("a"), 0.0)
    it.schedule(0.0)
    it.complete({0: hypothesis(1, False)}, {}, 0.0)
    it.submit(partial("b"), 0.0)
    it.schedule(0.0)
    it.complete({0: hypothesis(2, False), 1: hypothesis(1, False)}, {}, 0.0)
    it.submit(final("c"), 0.0)
    plan = it.schedule(0.0)
    assert admitted(plan) == [final("c")]
    assert plan.release == (1,), "the partial with the fewest steps behind it gives way"
    assert plan.dropped == ()
    it.complete({0: hypothesis(3, True)}, {}, 0.0)
    again = it.schedule(0.0)
    assert admitted(again) == [partial("b")], "and is done again when there is room"


def test_steps_count_for_more_than_age() -> None:
    it = scheduler(max_rows=2)
    it.submit(final("x"), 0.0)
    it.submit(partial("late", deadline=2.0), 0.0)
    it.submit(partial("soon", deadline=1.0), 0.0)
    assert admitted(it.schedule(0.0))[1].stream == "soon"
    it.complete({0: hypothesis(1, True), 2: hypothesis(1, False)}, {}, 0.0)
    assert admitted(it.schedule(0.0))[0].stream == "late"
    it.complete({1: hypothesis(1, False), 2: hypothesis(2, False)}, {}, 0.0)
    it.submit(final("y"), 0.0)
    assert it.schedule(0.0).release == (1,)


def test_the_partial_whose_final_waits_gives_way_first() -> None:
    it = scheduler(max_rows=2)
    it.submit(partial("a"), 0.0)
    it.schedule(0.0)
    it.complete({0: hypothesis(1, False)}, {}, 0.0)
    it.submit(partial("b"), 0.0)
    it.schedule(0.0)
    it.submit(final("a"), 0.0)
    plan = it.schedule(0.0)
    assert admitted(plan) == [final("a")]
    assert dropped(plan.dropped) == [(partial("a"), "replaced")]


def test_an_evicted_partial_yields_to_a_newer_one_that_waits() -> None:
    it = scheduler(max_rows=1)
    it.submit(partial("a", revision=1), 0.0)
    it.schedule(0.0)
    it.submit(partial("a", revision=2), 0.0)
    it.submit(final("b"), 0.0)
    plan = it.schedule(0.0)
    assert dropped(plan.dropped) == [(partial("a", revision=1), "replaced")]
    assert it.queued == 1


def test_an_evicted_partial_does_not_overfill_the_queue() -> None:
    it = scheduler(max_rows=1, max_queued=1, reserved_finals=1)
    it.submit(partial("a"), 0.0)
    it.schedule(0.0)
    it.submit(final("b"), 0.0)
    it.submit(final("c"), 0.0)
    plan = it.schedule(0.0)
    assert admitted(plan) == [final("b")]
    assert dropped(plan.dropped) == [(partial("a"), "expired")]


def test_finals_are_not_evicted_for_finals() -> None:
    it = scheduler(max_rows=1)
    it.submit(final("a"), 0.0)
    it.schedule(0.0)
    it.submit(final("b", deadline=0.5), 0.0)
    plan = it.schedule(0.0)
    assert (plan.release, plan.admit, plan.step) == ((), (), (0,))


def test_partials_are_refused_first_and_finals_have_a_reserve() -> None:
    it = scheduler(max_queued=1, reserved_finals=1)
    it.submit(final("a"), 0.0)
    with pytest.raises(Overloaded, match="1 requests wait"):
        it.submit(partial("p"), 0.0)
    it.submit(final("b"), 0.0)
    with pytest.raises(Overloaded, match="2 requests wait"):
        it.submit(final("c"), 0.0)
    assert it.queued == 2


def test_a_newer_partial_is_taken_though_the_queue_is_full() -> None:
    it = scheduler(max_queued=1)
    it.submit(partial("a", revision=1), 0.0)
    it.submit(partial("a", revision=2), 0.0)
    assert it.queued == 1


def test_a_final_displaces_a_partial_before_it_is_refused() -> None:
    it = scheduler(max_queued=1, reserved_finals=1)
    it.submit(partial("p"), 0.0)
    it.submit(final("a"), 0.0)
    submission = it.submit(final("b"), 0.0)
    assert dropped(submission.dropped) == [(partial("p"), "expired")]


def test_partials_expire_by_the_configured_deadline() -> None:
    it = scheduler(max_rows=1, partial_deadline_ms=500)
    it.submit(final("a"), 0.0)
    it.schedule(0.0)
    it.submit(partial("b"), 0.0)
    assert it.schedule(0.49).dropped == ()
    assert dropped(it.schedule(0.5).dropped) == [(partial("b"), "expired")]


def test_a_running_partial_does_not_expire() -> None:
    it = scheduler(partial_deadline_ms=500)
    it.submit(partial("b"), 0.0)
    it.schedule(0.0)
    assert it.schedule(9.0).step == (0,)


def test_an_expired_final_fails_with_a_typed_error() -> None:
    it = scheduler(max_rows=1)
    it.submit(final("a"), 0.0)
    it.schedule(0.0)
    it.submit(final("b", deadline=1.0), 0.0)
    (outcome,) = it.schedule(1.0).dropped
    assert isinstance(outcome.reply, Failed)
    assert isinstance(outcome.reply.error, DeadlineExceeded)


def test_a_running_partial_ends_with_its_final_that_expired() -> None:
    it = scheduler()
    it.submit(partial("a"), 0.0)
    it.schedule(0.0)
    it.submit(final("a", deadline=1.0), 0.0)
    plan = it.schedule(1.0)
    assert plan.release == (0,)
    assert [type(outcome.reply) for outcome in plan.dropped] == [Failed, Dropped]


def test_a_final_without_a_deadline_waits_for_as_long_as_it_takes() -> None:
    it = scheduler(max_rows=1)
    it.submit(final("a"), 0.0)
    assert admitted(it.schedule(1e6)) == [final("a")]


def test_cancel_takes_what_waits_at_once_and_what_runs_at_the_boundary() -> None:
    it = scheduler(max_rows=1)
    it.submit(final("a", 0), 0.0)
    it.schedule(0.0)
    it.submit(final("a", 1), 0.0)
    it.submit(final("b", 0), 0.0)
    assert dropped(it.cancel("a")) == [(final("a", 1), "cancelled")]
    plan = it.schedule(0.0)
    assert plan.release == (0,)
    assert dropped(plan.dropped) == [(final("a", 0), "cancelled")]
    assert admitted(plan) == [final("b", 0)], "the place is free in the same plan"


def test_cancel_of_one_segment_leaves_the_others() -> None:
    it = scheduler()
    it.submit(final("a", 0), 0.0)
    it.submit(final("a", 1), 0.0)
    assert dropped(it.cancel("a", 0)) == [(final("a", 0), "cancelled")]
    assert it.cancel("a", 0) == []
    assert it.queued == 1


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_cancelled_row_that_ends_meanwhile_is_still_cancelled(has_failed: bool) -> None:
    it = scheduler()
    it.submit(final("a"), 0.0)
    it.schedule(0.0)
    it.cancel("a")
    failures = {0: RecognitionFailed("no")} if has_failed else {}
    results = {} if has_failed else {0: hypothesis(1, True)}
    outcomes = it.complete(results, failures, 0.1)
    assert dropped(outcomes) == [(final("a"), "cancelled")]
    assert it.schedule(0.1) == Plan((), (), (), ())


def test_a_waiting_partial_is_made_a_final() -> None:
    it = scheduler(max_rows=1)
    it.submit(partial("a"), 0.0)
    it.submit(partial("b", deadline=1.0), 0.0)
    promoted = replace(partial("b"), is_final=True, deadline=1.0)
    assert it.promote("b", 0, 0.5) == (1, promoted)
    plan = it.schedule(5.0)
    assert admitted(plan) == [promoted], "before the other, and its deadline is gone"
    assert dropped(plan.dropped) == [(partial("a"), "expired")]


def test_a_running_partial_is_made_a_final_and_keeps_its_steps() -> None:
    it = scheduler(max_rows=1)
    it.submit(partial("a"), 0.0)
    it.schedule(0.0)
    it.complete({0: hypothesis(1, False)}, {}, 0.0)
    it.promote("a", 0, 0.0)
    it.submit(final("b"), 0.0)
    assert it.schedule(0.0).release == (), "no final gives way to another"
    (outcome,) = it.complete({0: hypothesis(2, True)}, {}, 0.1)
    assert isinstance(outcome.reply, Decoded)
    assert outcome.reply.request.is_final


def test_there_may_be_nothing_to_make_a_final_of() -> None:
    it = scheduler()
    it.submit(partial("a"), 0.0)
    it.submit(final("b"), 0.0)
    assert it.promote("a", 1, 0.0) is None
    assert it.promote("b", 0, 0.0) is None
    it.schedule(0.0)
    it.cancel("a", 0)
    assert it.promote("a", 0, 0.0) is None, "it leaves at the next boundary"


class SchedulerMachine(RuleBasedStateMachine):
    """Any order of calls: submits, cancels, time, steps that end and fail as they like."""

    @initialize(rows=st.integers(1, 4), queue=st.integers(1, 6), reserve=st.integers(0, 3))
    def begin(self, rows: int, queue: int, reserve: int) -> None:
        self.rows, self.queue, self.bound = rows, queue, queue + reserve
        config = SchedulerConfig(
            max_queued=queue, reserved_finals=reserve, partial_deadline_ms=1000
        )
        self.it = Scheduler(config, rows)
        self.now = 0.0
        self.clock = 0  # Counts events, to tell before from after.
        self.revisions: Counter[tuple[str, int]] = Counter()
        self.accepted: dict[int, tuple[Request, int]] = {}
        self.replies: dict[int, Reply] = {}
        self.cancelled: set[int] = set()
        self.finals_settled: dict[tuple[str, int], int] = {}
        self.running: dict[int, int] = {}

    def settle(self, outcomes: list[Outcome] | tuple[Outcome, ...]) -> None:
        for number, reply in ((outcome.number, outcome.reply) for outcome in outcomes):
            self.clock += 1
            assert number not in self.replies, "a second outcome"
            request, accepted_at = self.accepted[number]
            assert reply.request == request
            self.replies[number] = reply
            self.running.pop(number, None)
            if request.is_final:
                self.finals_settled[request.key] = self.clock
                if isinstance(reply, Dropped):
                    assert reply.reason == "cancelled"
                    assert number in self.cancelled
                if isinstance(reply, Failed) and isinstance(reply.error, DeadlineExceeded):
                    assert request.deadline is not None
                    assert request.deadline <= self.now
            elif isinstance(reply, Decoded):
                settled = self.finals_settled.get(request.key, -1)
                assert not accepted_at < settled, "a partial was heard after its final"

    @rule(
        stream=st.sampled_from("ab"),
        segment=st.integers(0, 2),
        is_final=st.booleans(),
        patience=st.none() | st.floats(0, 3),
        back=st.integers(0, 1),
    )
    def submit(
        self, stream: str, segment: int, is_final: bool, patience: float | None, back: int
    ) -> None:
        self.revisions[stream, segment] += 1
        revision = self.revisions[stream, segment] - 2 * back
        deadline = None if patience is None else self.now + patience
        request = Request(stream, segment, revision, is_final, UTTERANCE, deadline)
        queued = self.it.queued
        try:
            submission = self.it.submit(request, self.now)
        except Overloaded:
            assert self.it.queued == queued
            assert queued >= (self.bound if is_final else self.queue)
            return
        assert submission.number not in self.accepted
        self.clock += 1
        self.accepted[submission.number] = (request, self.clock)
        self.settle(submission.dropped)
        if not is_final and submission.number not in self.replies:
            assert self.it.queued <= max(self.queue, queued)

    @rule(stream=st.sampled_from("ab"), segment=st.none() | st.integers(0, 2))
    def cancel(self, stream: str, segment: int | None) -> None:
        for number, (request, _) in self.accepted.items():
            if request.stream == stream and segment in (None, request.segment):
                self.cancelled.add(number)
        self.settle(self.it.cancel(stream, segment))

    @rule(stream=st.sampled_from("ab"), segment=st.integers(0, 2))
    def promote(self, stream: str, segment: int) -> None:
        promoted = self.it.promote(stream, segment, self.now)
        open_partials = {
            number: request
            for number, (request, _) in self.accepted.items()
            if request.key == (stream, segment)
            and not request.is_final
            and number not in self.replies
        }
        if promoted is None:
            assert open_partials.keys() <= self.cancelled | self.outlived()
            return
        number, request = promoted
        assert request == replace(open_partials[number], is_final=True)
        self.accepted[number] = (request, self.accepted[number][1])

    def outlived(self) -> set[int]:
        """Partials in the rows whose final has been heard: they leave at the next boundary."""
        return {n for n in self.running if self.accepted[n][0].key in self.finals_settled}

    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        plan = self.plan()
        hypotheses, failures = {}, {}
        for number in plan.step:
            ends = data.draw(st.sampled_from(["goes on", "goes on", "ends", "fails"]))
            if ends == "fails":
                failures[number] = RecognitionFailed("no")
            else:
                self.running[number] += 1
                hypotheses[number] = hypothesis(self.running[number], ends == "ends")
        self.settle(self.it.complete(hypotheses, failures, self.now))

    def plan(self) -> Plan:
        plan = self.it.schedule(self.now)
        for number in plan.release:
            del self.running[number]
        for admission in plan.admit:
            assert admission.number not in self.running, "twice in the rows"
            assert self.accepted[admission.number][0] == admission.request
            self.running[admission.number] = 0
        self.settle(plan.dropped)
        assert len(set(plan.step)) == len(plan.step) <= self.rows
        assert set(plan.step) == set(self.running)
        open_numbers = self.accepted.keys() - self.replies.keys()
        waits = open_numbers - set(plan.step)
        if any(self.accepted[number][0].is_final for number in waits):
            assert len(plan.step) == self.rows, "a row is free and a final waits"
            behind = [n for n in plan.step if not self.accepted[n][0].is_final]
            assert not behind, "a final waits behind a partial"
        partials = [self.accepted[n][0].key for n in plan.step if not self.accepted[n][0].is_final]
        assert len(set(partials)) == len(partials)
        return plan

    @invariant()
    def bounds_hold(self) -> None:
        if hasattr(self, "it"):
            assert self.it.queued <= self.bound
            assert self.it.running <= self.rows
            waiting = len(self.accepted) - len(self.replies)
            assert self.it.queued + self.it.running == waiting

    def teardown(self) -> None:
        if not hasattr(self, "it"):
            return
        for _ in range(2 * len(self.accepted) + 2):
            plan = self.plan()
            ended = {number: hypothesis(9, True) for number in plan.step}
            self.settle(self.it.complete(ended, {}, self.now))
        assert self.it.is_idle
        assert self.replies.keys() == self.accepted.keys()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
