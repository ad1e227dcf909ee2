"""A step takes its tokens, in the amounts that graphs have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_server.evaluation.machine_costs import MACHINES, MachineCosts

COSTS = MachineCosts("toy", 10.0, 0.1, 0.01, (2.0, 1.0), (0.5, 0.25))
UNIT, PROMPT = 3.2, 0.32
"""Milliseconds of 32 places, and of 32 positions."""
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_a_start_costs_something_and_more_for_each_row() -> None:
    assert COSTS.start(0) == 0
    assert COSTS.start(3) == 5.0
    assert COSTS.host(4) == 1.5


def test_some_of_listening_vanishes_behind_a_step() -> None:
    assert COSTS.beside(20.0, 0.0) == 20
    assert COSTS.beside(20.0, 10.0) == pytest.approx(24)
    assert COSTS.beside(2.0, 10.0) == pytest.approx(10), "no more than there is of a step"


@pytest.mark.parametrize(
    ("seconds", "new", "units", "prompts"),
    [
        ([2.0], [], 1, 0),  # 15.6 of 32 places
        ([4.2], [], 2, 0),  # 32.8 of 64
        ([2.0] * 5, [], 6, 0),  # no graph of 5
        ([2.0], [2.0], 1, 2),  # 40 positions
        ([2.0], [6.0], 1, 4),  # 65 positions, no graph of 3
        ([30.0] * 2, [], 4, 0),  # canvases end at 64
    ],
)
def test_a_step(seconds: list[float], new: list[float], units: int, prompts: int) -> None:
    wanted = 10 + units * UNIT + prompts * PROMPT
    assert COSTS.step(seconds, new) == pytest.approx(wanted)


def test_prompts_beyond_a_step_read_the_weights_again() -> None:
    # 21 of two units: 32 of them alone, 10 in the step.
    many = COSTS.step([2.0] * 21, [2.0] * 21)
    assert many == pytest.approx(10 + 24 * UNIT + 16 * PROMPT + 10 + 32 * PROMPT)


@pytest.mark.parametrize(("place", "name"), [(0, "decode"), (1, "float8-top32")])
def test_the_figures_are_those_that_were_measured(place: int, name: str) -> None:
    document: dict[str, Any] = json.loads((RESULTS / f"2026-11-27-h200-{name}.json").read_text())
    for each in map(decoded, document["results"]):
        shape = each["shape"]
        if shape["canvas"] == 64:
            costs = MACHINES[place]
            step = costs.fixed + costs.place * 64 * shape["rows"]
            assert step == pytest.approx(each["step"], rel=0.05)


def decoded(result: Any) -> dict[str, Any]:
    return dict(json.loads(result) if isinstance(result, str) else result)
