"""Finals are in every turn; the rest joins as far as it costs them little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream_server.config import SchedulerConfig
from stream_server.recogniser.interface import Hypothesis, Utterance
from stream_server.scheduler.costs import CostMeter, TurnCosts
from stream_server.scheduler.request import Decoded, Request
from stream_server.scheduler.scheduler import Plan, Scheduler
from stream_server.scheduler.sharing import Sharing

GPU = TurnCosts(turn=0.020, row=0.0001, audio=0.0001)
CPU = TurnCosts(turn=0.010, row=0.005, audio=0.040)


def sharing(costs: TurnCosts | None, share: float = 0.4) -> Sharing:
    if costs is None:
        return Sharing(share, 8, None)
    meter = CostMeter()
    meter.restart(costs)
    return Sharing(share, 8, meter)


def take(it: Sharing, *audio: float) -> list[bool]:
    """Offer rows of the rest: 0 is one that runs."""
    return [it.takes(seconds or None) for seconds in audio]


def test_without_costs_everything_is_taken() -> None:
    it = sharing(None)
    it.begin(0.0, ["a"], [("b", 4.0)])
    assert take(it, 0.0, 4.0, 30.0) == [True, True, True]


def test_on_a_gpu_the_rest_is_let_along() -> None:
    it = sharing(GPU)
    it.begin(0.0, ["a"], [])
    assert take(it, 0.0, 3.0, 3.0, 3.0) == [True, True, True, True]


def test_on_a_cpu_the_rest_is_paused_for_finals() -> None:
    it = sharing(CPU)
    it.begin(0.0, ["a"], [])
    assert take(it, 0.0, 3.0) == [False, False]
    it.begin(1.0, [], [("a", 4.0)])
    assert take(it, 0.0, 0.0, 4.0) == [True, True, False]


def test_a_turn_without_finals_is_short() -> None:
    it = sharing(CPU)
    it.begin(0.0, [], [])
    assert take(it, 0.0, 0.0, 1.0, 1.0) == [True, True, True, False]
    it.begin(1.0, [], [])
    assert take(it, 20.0, 1.0) == [True, False]  # one is always taken


def busy(it: Sharing, streams: int) -> None:
    """Let finals of streams take 40 % of ten seconds."""
    for turn in range(10):
        stream = f"s{turn % streams}"
        it.begin(float(turn), [], [(stream, 10.0)])
        it.end(turn + 0.41)


def test_the_more_finals_the_longer_the_rest_pauses() -> None:
    it = sharing(CPU)
    busy(it, streams=2)
    it.begin(10.0, [], [])
    assert it.takes(2.0)
    it.end(10.1)
    assert it.free_at == pytest.approx(10.5, abs=0.05)
    it.begin(10.2, [], [])
    assert take(it, 0.0, 2.0) == [True, False]  # what runs goes on, nothing new begins
    it.begin(10.6, [], [])
    assert it.takes(2.0)


@pytest.mark.parametrize(("streams", "share"), [(1, 0.4), (2, 0.0)])
def test_nobody_pauses_for_himself_or_without_a_bound(streams: int, share: float) -> None:
    it = sharing(CPU, share)
    busy(it, streams)
    it.begin(10.0, [], [])
    assert it.takes(2.0)
    it.end(10.1)
    assert it.free_at <= 10.1


def test_the_work_of_finals_is_counted_and_turns_are_learnt_from() -> None:
    it = sharing(CPU)
    it.begin(0.0, ["a"], [("b", 2.0)])
    it.end(0.1)
    it.begin(1.0, [], [])
    it.takes(5.0)
    it.end(1.2)
    it.end(9.0)  # no turn
    assert it.load.total == pytest.approx(2 * (0.005 + 0.010 / 8) + 0.08)


# --- in the scheduler ---

UTTERANCE = Utterance(np.zeros(0, np.float32), steps=4)


def partial(stream: str, segment: int = 0) -> Request:
    return Request(stream, segment, 1, False, UTTERANCE)


def final(stream: str, segment: int = 0) -> Request:
    return Request(stream, segment, 99, True, UTTERANCE)


def hypothesis(step: int, is_final: bool) -> Hypothesis:
    return Hypothesis((), (), (), step=step, is_final=is_final)


def admitted(plan: Plan) -> list[str]:
    return [admission.request.stream for admission in plan.admit]


def learned(turn: float, row: float, audio: float) -> CostMeter:
    meter = CostMeter()
    meter.restart(TurnCosts(turn, row, audio))
    return meter


def test_a_running_partial_is_paused_for_a_final_and_loses_nothing() -> None:
    it = Scheduler(SchedulerConfig(), 4, learned(0.0, 0.01, 0.0))
    it.submit(partial("p"), 0.0)
    assert it.schedule(0.0).step == (0,)
    it.complete({0: hypothesis(1, False)}, {}, 0.01)
    it.submit(final("f"), 0.01)
    plan = it.schedule(0.01)
    assert plan.step == (1,)
    assert plan.release == ()
    (outcome,) = it.complete({1: hypothesis(1, True)}, {}, 0.02)
    assert outcome.reply.request == final("f")
    assert it.schedule(0.02).step == (0,)
    (outcome,) = it.complete({0: hypothesis(2, True)}, {}, 0.03)
    assert isinstance(outcome.reply, Decoded)


def test_what_is_likely_to_be_a_final_goes_before_other_partials_and_after_finals() -> None:
    it = Scheduler(SchedulerConfig(), 4, learned(0.0, 0.01, 0.0))
    it.submit(partial("p"), 0.0)
    it.submit(replace(partial("g"), is_likely=True), 0.1)
    it.submit(final("f"), 0.2)
    assert admitted(it.schedule(0.2)) == ["f", "g"]


def test_a_file_waits_for_live_finals_but_is_no_partial() -> None:
    it = Scheduler(SchedulerConfig(), 4, learned(0.0, 0.01, 0.0))
    it.submit(replace(final("file"), is_live=False), 0.0)
    it.submit(partial("p"), 0.0)
    it.submit(final("f"), 0.1)
    assert admitted(it.schedule(0.1)) == ["f"]
    it.complete({2: hypothesis(1, True)}, {}, 0.2)
    assert admitted(it.schedule(0.2))[0] == "file"


def test_there_is_a_time_at_which_a_pausing_partial_goes_on() -> None:
    it = Scheduler(SchedulerConfig(busy_share=0.1), 1, learned(0.5, 0.0, 0.0))
    assert it.pause(0.0) is None
    for number, stream in enumerate("ab"):
        it.submit(final(stream), 0.0)
        assert it.pause(0.0) == 0
        it.schedule(0.0)
        it.complete({number: hypothesis(1, True)}, {}, 0.5)
    it.submit(partial("a", segment=1), 0.5)
    it.schedule(0.5)
    it.complete({2: hypothesis(1, True)}, {}, 1.0)
    it.submit(partial("b", segment=1), 1.0)
    assert it.pause(1.0) == pytest.approx(2.0)
    assert it.oldest == 1.0
    assert it.schedule(1.0).step == ()
    it.submit(final("a", segment=2), 1.5)
    assert it.pause(1.5) == 0
