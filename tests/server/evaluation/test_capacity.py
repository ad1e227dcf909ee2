"""The search for the most streams, on reports of a server whose capacity is known."""

from __future__ import annotations

import pytest

from stream_client.load import Latency, LoadPlan, LoadReport
from stream_protocol.messages import Start
from stream_server.errors import ConfigError, DiffscribeError
from stream_server.evaluation.capacity import Capacity, Goal, Measure, find_capacity, running_server

PLAN = LoadPlan("ws://nowhere", 1, (), Start())


def latency(value: float, count: int = 10) -> Latency:
    return Latency(count, value, value, value, value)


def report(
    streams: int, final: float = 200.0, failed: int = 0, late: float = 0.0, finals: int = 10
) -> LoadReport:
    return LoadReport(
        streams, failed, 10.0, 10.0, finals, latency(100), latency(final, finals),
        latency(min(final, 40.0), finals), late, (),
    )  # fmt: skip


def search(capacity: int, goal: Goal, **changes: float) -> tuple[Capacity, list[int]]:
    """Search a server that is in time up to ``capacity`` streams."""
    tried = []

    def run(plan: LoadPlan, _: int) -> LoadReport:
        tried.append(plan.streams)
        is_over = plan.streams > capacity
        if is_over and changes:
            return report(plan.streams, **{"final": 310.0, **changes})  # type: ignore[arg-type]
        return report(plan.streams, final=310.0 if is_over else 250.0)

    return find_capacity(PLAN, goal, run=run), tried


@pytest.mark.parametrize("capacity", [0, 1, 3, 4, 5, 19, 20])
def test_small_numbers_are_found_exactly(capacity: int) -> None:
    found, tried = search(capacity, Goal(first=4, most=64))
    assert found.streams == capacity
    assert len(tried) == len(set(tried)), "nothing is tried twice"
    assert [each.streams for each in found.reports] == tried


@pytest.mark.parametrize("capacity", [100, 137, 250])
def test_large_numbers_are_found_to_a_twentieth(capacity: int) -> None:
    found, tried = search(capacity, Goal(first=8, most=1000))
    assert 0.95 * capacity <= found.streams <= capacity
    assert len(tried) < 12


def test_a_coarse_search_takes_fewer_probes() -> None:
    found, tried = search(100, Goal(first=64, gap=0.2))
    assert (found.streams, tried) == (96, [64, 128, 96, 112])


def test_the_most_is_not_exceeded() -> None:
    found, tried = search(1000, Goal(first=4, most=50))
    assert (found.streams, tried) == (50, [4, 8, 16, 32, 50])
    assert search(1000, Goal(first=80, most=50))[1] == [50]


def test_a_failed_stream_misses_the_goal_and_so_does_silence() -> None:
    goal = Goal()
    assert goal.is_met(report(4))
    assert not goal.is_met(report(4, failed=1))
    assert not goal.is_met(report(4, finals=0))
    assert not goal.is_met(report(4, final=300.1))
    assert Goal(Measure.FINALISE, 50).is_met(report(4, final=400.0))


def test_a_late_generator_ends_the_search() -> None:
    found, _ = search(10, Goal(first=4, most=64), late=900.0)
    assert found.streams == 8
    assert "give it more processes" in found.remark
    assert found.remark in found.table()


def test_a_pause_longer_than_the_goal_is_named() -> None:
    found, tried = search(0, Goal(first=4), final=520.0)
    assert (found.streams, tried) == (0, [4])
    assert "takes 480 ms alone: give a shorter --silence-ms" in found.remark


def test_the_table_is_in_the_order_of_streams() -> None:
    found, _ = search(5, Goal(first=4, most=64))
    rows = [line.split("|")[1].strip() for line in found.table().splitlines()[2:] if "|" in line]
    assert rows == ["4", "5", "6", "8"]
    assert "5 streams with p95 of final at most 300 ms" in found.table()


def test_a_running_server_is_used_as_it_is() -> None:
    with running_server("ws://there", []) as url:
        assert url == "ws://there"
    with pytest.raises(ConfigError, match="without the options"), running_server("ws://x", ["-x"]):
        pass


def test_a_server_that_does_not_start_is_reported() -> None:
    refused = pytest.raises(DiffscribeError, match="status 2 before it was ready")
    with refused, running_server("", ["--no-such-option"]):
        pass


def test_a_server_of_random_weights_is_another_program() -> None:
    refused = pytest.raises(DiffscribeError, match="status 1 before it was ready")
    with refused, running_server("", ["--kernels", "magic"], is_random=True):
        pass
