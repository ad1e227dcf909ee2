"""The short form of the overload: a model that sleeps, half a minute, and what counts as failure.

How much slower than alone is not judged here, since other work on the machine would be judged with
it: the command is for that. What does not depend on it is: that some are refused, at once, and
nobody who was let in loses anything.
"""

from __future__ import annotations

import pytest

from stream_client.load import Latency, StreamResult
from tests.long.overload import IMITATION, Crowd, Result, run
from tests.with_server import running_server


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_ten_times_more_come_than_fit() -> None:
    with running_server([], 60, IMITATION) as url:
        result = run(url, times=10, alone_seconds=20, seconds=15)
    assert result.problems == []
    assert result.capacity >= 1
    assert result.clients == 10 * result.capacity
    assert result.sessions >= 1
    assert result.crowded.count > 0
    assert result.refused.count > result.sessions
    assert result.refused.p50 < 100


def latency(p95: float, count: int = 10) -> Latency:
    return Latency(count, p95 / 2, p95, p95, p95)


@pytest.mark.parametrize(
    ("crowded", "refused", "problems", "said"),
    [
        (latency(149), latency(50), [], None),
        (latency(151), latency(50), [], "final p95"),
        (latency(149), latency(101), [], "refused after"),
        (latency(149), latency(0, 0), [], "nobody was refused"),
        (latency(0, 0), latency(50), [], "nothing was heard"),
        (latency(149), latency(50), ["no done"], "no done"),
    ],
)
def test_what_fails(crowded: Latency, refused: Latency, problems: list[str], said: str) -> None:
    alone = latency(100)
    result = Result(4, 40, alone, alone, crowded, crowded, refused, 9, problems)
    assert [failure[: len(said or "")] for failure in result.failures] == ([said] if said else [])


def test_a_crowd_is_summed_up() -> None:
    one, other = StreamResult(final_ms=[1.0, 2.0]), StreamResult(final_ms=[3.0], problems=["odd"])
    crowd = Crowd([one, other], [5.0])
    assert (crowd.final.count, crowd.final.worst) == (3, 3.0)
    assert crowd.refused.p50 == 5.0
    assert crowd.problems == ["odd"]
