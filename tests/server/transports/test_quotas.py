"""Each key has its own; days begin at midnight, UTC."""

from __future__ import annotations

import pytest

from stream_server.errors import LimitReached
from stream_server.keyring import ANYONE, Key
from stream_server.transports.quotas import Quotas

STAGE, BOT = Key("stage"), Key("bot", max_sessions=1, max_audio_s=10)
FREE = Key("free", max_sessions=0, max_audio_s=0)


class Clock:
    now = 86_400.0 * 100 + 5

    def __call__(self) -> float:
        return self.now


def test_sessions_are_counted_for_each_key() -> None:
    quotas = Quotas(max_sessions=2)
    for key in (STAGE, STAGE, BOT, FREE, FREE, FREE, ANYONE, ANYONE):
        quotas.check(key)
        quotas.enter(key)
    for key, allowed in ((STAGE, 2), (BOT, 1), (ANYONE, 2)):
        with pytest.raises(LimitReached, match=f"{allowed} sessions at once"):
            quotas.check(key)
    quotas.check(FREE)
    quotas.leave(STAGE)
    quotas.check(STAGE)


def test_audio_is_counted_for_each_key_until_midnight() -> None:
    clock = Clock()
    quotas = Quotas(max_audio_s=60, clock=clock)
    one, other = quotas.meter(BOT), quotas.meter(BOT)
    one(5 * 16_000)
    other(5 * 16_000)
    with pytest.raises(LimitReached, match="'bot' may send 10 s"):
        one(1)
    with pytest.raises(LimitReached, match="after midnight, UTC"):
        quotas.check(BOT)
    for key in (STAGE, FREE, ANYONE):
        quotas.check(key)
        quotas.meter(key)(60 * 16_000)
    quotas.meter(FREE)(60 * 16_000)
    with pytest.raises(LimitReached):
        quotas.check(STAGE)
    clock.now += 86_400 - 10
    with pytest.raises(LimitReached):
        quotas.check(BOT)
    clock.now += 5
    quotas.check(BOT)
    one(16_000)


def test_without_bounds_nothing_is_refused() -> None:
    quotas = Quotas()
    for _ in range(1000):
        quotas.check(STAGE)
        quotas.enter(STAGE)
    quotas.meter(STAGE)(10**12)
    quotas.check(STAGE)
