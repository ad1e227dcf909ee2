"""A step takes its tokens, in the amounts that graphs have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream_server.evaluation.machine_costs import MACHINES, MachineCosts

LINE = ((1, 13.2), (65, 218.0))
"""10 ms and 3.2 for each unit."""
COSTS = MachineCosts("toy", LINE, 0.1, (2.0, 1.0), (0.5, 0.25), 3.0, 2.0)
UNIT, PROMPT = 3.2, 0.32
"""Milliseconds of a canvas's unit, and of a prompt's."""
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_a_start_costs_something_and_more_for_each_row() -> None:
    assert COSTS.start(0) == 0
    assert COSTS.start(3) == 5.0


def test_the_host_takes_its_time_between_two_steps() -> None:
    assert replace(COSTS, launched_first=None).between(4) == 1.5
    assert replace(COSTS, launched_first=(0.25, 0.125)).between(4) == 0.75


def test_a_canvas_is_as_long_as_its_audio_and_there_is_a_larger_one() -> None:
    assert [COSTS.canvas(seconds) for seconds in (2.0, 4.2, 30.0)] == [32, 64, 64]
    assert (COSTS.larger(32), COSTS.larger(64)) == (64, None)


def test_some_of_listening_vanishes_behind_a_step() -> None:
    assert COSTS.beside(20.0, 0.0) == 20
    assert COSTS.beside(20.0, 10.0) == pytest.approx(24)
    assert COSTS.beside(2.0, 10.0) == pytest.approx(10), "no more than there is of a step"
    assert COSTS.beside(20.0, 10.0, 5.0) == pytest.approx(24), "there is time for it"
    assert COSTS.beside(20.0, 10.0, 16.0) == pytest.approx(26), "it begins too late"
    assert COSTS.beside(5.0, 0.0, 8.0) == 8, "so long the host has something to do"


@pytest.mark.parametrize(
    ("canvases", "new", "units", "prompts"),
    [
        ([32], [], 1, 0),
        ([64], [], 2, 0),
        ([32] * 5, [], 6, 0),  # no graph of 5
        ([32], [2.0], 1, 2),  # 40 positions
        ([32], [6.0], 1, 4),  # 65 positions, no graph of 3
    ],
)
def test_a_step(canvases: list[int], new: list[float], units: int, prompts: int) -> None:
    wanted = 10 + units * UNIT + prompts * PROMPT
    assert COSTS.step(canvases, new) == pytest.approx(wanted)


def test_between_what_was_measured_a_step_is_on_the_line_through_both() -> None:
    bent = replace(COSTS, steps=((1, 10.0), (4, 16.0), (64, 76.0)))
    assert [bent.step([32] * rows, []) for rows in (1, 2, 4, 8)] == [10, 12, 16, 20]


def test_prompts_beyond_a_step_read_the_weights_again() -> None:
    # 21 of two units: 32 of them alone, 10 in the step.
    many = COSTS.step([32] * 21, [2.0] * 21)
    assert many == pytest.approx(10 + 24 * UNIT + 16 * PROMPT + 10 + 32 * PROMPT)


def measured(name: str) -> Iterator[dict[str, Any]]:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return map(decoded, document["results"])


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (0, "2026-11-28-h200-decode"),
        (0, "2026-11-28-h200-decode-between"),
        (1, "2026-11-27-h200-float8-top32"),
    ],
)
def test_the_figures_are_those_that_were_measured(place: int, name: str) -> None:
    costs = MACHINES[place]
    for each in measured(name):
        rows, canvas, prompt = (each["shape"][key] for key in ("rows", "canvas", "prompt"))
        if rows > 1 or canvas == 64:  # one row reads fewer experts than its units let expect
            units = rows * canvas // 32
            assert costs.pass_of(units, 0) == pytest.approx(each["step"], rel=0.08)
            prompts = rows * prompt // 32
            assert costs.pass_of(0, prompts) == pytest.approx(each["prefill"], rel=0.13)


def decoded(result: Any) -> dict[str, Any]:
    return dict(json.loads(result) if isinstance(result, str) else result)
