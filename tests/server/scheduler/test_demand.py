"""How many sessions fit follows from what they take."""

from __future__ import annotations

import pytest

from stream_server.scheduler.costs import TurnCosts
from stream_server.scheduler.demand import Demand, UrgentLoad

COSTS = TurnCosts(turn=0.0, row=0.0, audio=0.05)
"""A session that always speaks takes 0.05 of the engine."""


def test_before_anything_is_known_sessions_are_taken_for_talkative() -> None:
    demand = Demand(0.35, max_rows=8, steps=8)
    assert demand.fits(COSTS) == 7
    assert Demand(0.35, 8, 8).fits(TurnCosts(turn=8.0)) == 1  # one always fits
    assert Demand(0.35, 8, 8).fits(TurnCosts()) is None


def test_no_share_is_no_bound() -> None:
    assert Demand(0.0, 8, 8).fits(COSTS) is None


@pytest.mark.parametrize(("each", "fits"), [(0.05, 7), (0.1, 3), (0.025, 13), (0.0, 28)])
def test_what_sessions_take_is_learnt(each: float, fits: int) -> None:
    demand = Demand(0.35, 8, 8)
    work = 0.0
    for second in range(600):
        demand.observe(float(second), 5, work)
        work += 5 * each
    found = demand.fits(COSTS)
    assert found is not None
    assert abs(found - fits) <= 1


def test_what_was_long_ago_is_forgotten() -> None:
    demand = Demand(0.35, 8, 8)
    demand.observe(0.0, 10, 0.0)
    demand.observe(100.0, 0, 300.0)
    busy = demand.fits(COSTS)
    demand.observe(1000.0, 0, 300.0)
    assert busy == 1
    assert demand.fits(COSTS) in (6, 7)


def test_a_load_that_is_all_one_streams_is_none() -> None:
    load = UrgentLoad()
    load.add(0.0, "a", 1.0)
    assert load.of_several(1.0) == 0
    load.add(2.0, "b", 2.0)
    assert load.of_several(3.0) == pytest.approx(0.3)
    assert load.of_several(11.0) == 0  # the first is forgotten
    assert load.total == 3.0
