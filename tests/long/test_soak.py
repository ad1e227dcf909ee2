"""The short form of the soak: the fake model, a minute, sessions of every kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.long.soak import KINDS, Look, Result, child, run
from tests.with_server import running_server


@pytest.mark.timeout(300)
def test_a_minute_leaves_no_thread_and_no_file() -> None:
    with running_server(["--model", "fake", "--log-level", "warning"], 60) as url:
        result = run(url.removesuffix("/v1/stream"), child(), minutes=0.75, sessions=60, streams=6)
    assert result.sessions >= 60
    assert set(result.kinds) == {kind.__name__ for kind in KINDS}
    assert result.problems == {}
    assert result.end.threads <= result.warm.threads
    assert result.end.files <= result.warm.files
    # What Python keeps for itself in its first minute would be the most of 5 %.
    assert result.end.resident_mb <= 1.15 * result.warm.resident_mb


def test_what_fails() -> None:
    warm = Look(100.0, 5, 9)
    good = Result(1.0, 10, {"native": 10}, {}, warm, Look(104.0, 5, 8))
    assert good.failures == []
    assert replace(good, end=Look(106.0, 5, 9)).failures == ["100 MB became 106"]
    assert replace(good, end=Look(100.0, 6, 9)).failures == ["5 threads became 6"]
    assert replace(good, end=Look(100.0, 5, 10)).failures == ["9 files became 10"]
    assert replace(good, problems={"native: no": 2}).failures == ["native: no: 2 times"]
