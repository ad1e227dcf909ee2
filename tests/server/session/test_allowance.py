"""Not more than is left, and not faster than is allowed."""

from __future__ import annotations

import pytest

from stream_server.config import LimitsConfig
from stream_server.errors import LimitReached
from stream_server.session.allowance import Allowance, unmetered

SECOND = 16_000


def test_without_a_bound_any_pace_will_do() -> None:
    Allowance(LimitsConfig(), unmetered, 0.0).hear(0, 3600 * SECOND, 0.0)


def test_a_burst_is_allowed_and_what_is_ahead_of_it_is_not() -> None:
    allowance = Allowance(LimitsConfig(max_speed=2.0, max_burst_ms=10_000), unmetered, 100.0)
    allowance.hear(0, 10 * SECOND, 100.0)
    for second in range(1, 60):
        allowance.hear(0, 2 * SECOND, 100.0 + second)
    with pytest.raises(LimitReached, match="2 times the pace of speech and 10 s"):
        allowance.hear(0, SECOND, 159.0)


def test_a_pause_gives_the_burst_back() -> None:
    allowance = Allowance(LimitsConfig(max_speed=1.0, max_burst_ms=5_000), unmetered, 0.0)
    allowance.hear(0, 5 * SECOND, 0.0)
    allowance.hear(0, 60 * SECOND, 60.0)


def test_channels_have_one_pace_and_are_metered_each() -> None:
    heard: list[int] = []
    allowance = Allowance(LimitsConfig(max_speed=1.0, max_burst_ms=1_000), heard.append, 0.0)
    allowance.hear(0, SECOND, 0.0)
    allowance.hear(1, SECOND, 0.0)
    assert heard == [SECOND, SECOND]
    with pytest.raises(LimitReached):
        allowance.hear(1, 1, 0.0)


def test_what_is_heard_again_is_metered_once() -> None:
    heard: list[int] = []
    allowance = Allowance(LimitsConfig(), heard.append, 0.0, leads=(3 * SECOND,))
    for _ in range(3):
        allowance.hear(0, 2 * SECOND, 0.0)
        allowance.hear(1, SECOND, 0.0)
    assert heard == [0, SECOND, SECOND, SECOND, 2 * SECOND, SECOND]


def test_the_meter_ends_it() -> None:
    def meter(_: int) -> None:
        raise LimitReached("enough")

    with pytest.raises(LimitReached, match="enough"):
        Allowance(LimitsConfig(), meter, 0.0).hear(0, 1, 0.0)
