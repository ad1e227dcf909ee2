"""Finals are in every turn; the rest joins as far as it costs them little."""

from __future__ import annotations

import pytest

from stream_server.scheduler.costs import CostMeter, TurnCosts
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
    return [it.takes(seconds) for seconds in audio]


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
