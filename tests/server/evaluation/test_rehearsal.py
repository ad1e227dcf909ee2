"""A load in virtual time: nobody waits, and costs of the model show where they would."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream_client.load import LoadPlan
from stream_protocol.messages import Endpointing, Start
from stream_server.config import SchedulerConfig
from stream_server.evaluation.machine_costs import MACHINES, MachineCosts
from stream_server.evaluation.rehearsal import Rehearsed, rehearse

QUICK = MachineCosts(
    "quick", ((1, 0.1), (64, 0.1)), 0.0, (0.0, 0.0), (0.0, 0.0), 0.0, 0.0, (0.0, 0.0), endless=0.0
)
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
START = Start(partial_interval_ms=1000, endpointing=Endpointing(silence_ms=200))


def run(streams: int, costs: MachineCosts, start: Start = START, **options: int) -> Rehearsed:
    plan = LoadPlan("", streams, (), start, seconds=8)
    return rehearse(plan, costs, SchedulerConfig(busy_share=0), **options)


def test_every_stream_is_served_and_nobody_waits() -> None:
    began = time.monotonic()
    found = run(4, QUICK)
    report = found.report
    assert time.monotonic() - began < report.wall_seconds, "in less time than it tells of"
    assert report.wall_seconds > 8
    assert (report.streams, report.failed, report.late_ms) == (4, 0, 0)
    assert report.finals >= 8
    assert report.audio_seconds == pytest.approx(32)
    assert report.partials > report.finals
    assert "rows a turn" in found.remark


def test_a_quick_model_leaves_the_pause_and_the_way() -> None:
    """What a real server with the fake model was measured at: p50 of 213 ms."""
    found = run(4, QUICK).report
    assert found.final.p50 == pytest.approx(213, abs=5)
    assert found.finalise.p50 < 15


def test_it_comes_out_the_same_each_time() -> None:
    costs = MACHINES[0]
    assert run(12, costs) == run(12, costs)
    assert run(12, costs, seed=1) != run(12, costs), "another chance"


@pytest.mark.parametrize(
    ("place", "streams", "name"),
    [
        (0, 16, "2026-11-28-h200-capacity"),
        (0, 32, "2026-11-28-h200-capacity"),
        (1, 16, "2026-11-28-h200-capacity-float8-top32"),
        (1, 32, "2026-11-28-h200-capacity-float8-top32"),
    ],
)
def test_it_agrees_with_what_a_machine_was_measured_at(place: int, streams: int, name: str) -> None:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    (probe,) = (each for each in document["probes"] if each["streams"] == streams)
    plan = LoadPlan("", streams, (), START, seconds=15)
    costs = replace(MACHINES[place], launched_first=None)
    found = rehearse(plan, costs, SchedulerConfig(busy_share=0), partial_steps=2)
    assert found.report.finals == probe["finals"]
    assert found.report.final.p50 == pytest.approx(probe["final"]["p50"], rel=0.1)
    assert found.report.final.p95 == pytest.approx(probe["final"]["p95"], rel=0.15)
    turns = probe["turns"]
    assert found.turn_ms == pytest.approx(turns["mean_ms"], rel=0.1)
    assert found.row_steps / found.turns == pytest.approx(turns["mean_rows"], rel=0.1)


def test_a_text_without_an_end_takes_half_the_steps_again() -> None:
    short = replace(QUICK, endless=1.0, canvases=(32, 64), places_per_second=1.0)
    once = run(4, QUICK, steps=8, partial_steps=8)
    again = run(4, short, steps=8, partial_steps=8)
    assert again.row_steps == pytest.approx(1.5 * once.row_steps, rel=0.05)


def test_what_is_done_behind_a_launch_takes_no_time_of_finals() -> None:
    wordless = replace(QUICK, steps=((1, 20.0), (64, 20.0)))
    slow = replace(wordless, begin=4.0, words=6.0)
    none, before, after = (
        run(6, each).report.final.p50
        for each in (wordless, replace(slow, launched_first=None), slow)
    )
    assert none + 2 < after < before - 2, "words take time still, of those whose they are"


def test_a_slow_step_makes_finals_late() -> None:
    slow = replace(QUICK, steps=((1, 60.0), (64, 60.0)))
    late = run(4, slow).report
    # Eight steps and no more than the 100 ms between likely and certain are ahead of the end.
    assert late.final.p50 >= 213 + 8 * 60 - 100
    assert run(4, slow).busy > 0.5


def test_more_streams_wait_longer() -> None:
    few, many = (run(streams, MACHINES[0]).report for streams in (4, 120))
    assert many.final.p95 > few.final.p95 + 50


def test_fewer_steps_of_partials_are_fewer_steps() -> None:
    assert run(6, QUICK, partial_steps=1).row_steps < run(6, QUICK, partial_steps=6).row_steps
