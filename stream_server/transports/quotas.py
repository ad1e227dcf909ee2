"""What each key may use: sessions at once, and audio in a day.

Counted by this server alone, and from zero when it starts. Clients that need no key are counted
together, as one. Belongs to one event loop.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable

from stream_protocol.messages import CLOCK_RATE
from stream_server.errors import LimitReached
from stream_server.keyring import Key
from stream_server.session.allowance import Meter

_DAY: int = 86_400
"""Seconds."""


class Quotas:
    """The use of every key.

    Args:
        max_sessions: at once, of keys that say no other; 0 is no limit.
        max_audio_s: seconds a day, likewise.
        clock: Unix seconds.
    """

    def __init__(
        self,
        max_sessions: int = 0,
        max_audio_s: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_sessions = max_sessions
        self._max_audio_s = max_audio_s
        self._clock = clock
        self._sessions: Counter[str] = Counter()
        self._day = 0
        self._samples: Counter[str] = Counter()
        """Of today."""

    def check(self, key: Key) -> None:
        """Raise unless a session of ``key`` may begin.

        Raises:
            LimitReached: it has as many as it may, or has used up its audio.
        """
        allowed = self._max_sessions if key.max_sessions is None else key.max_sessions
        if allowed and self._sessions[key.name] >= allowed:
            raise LimitReached(f"{_who(key)} may have {allowed} sessions at once; end one first")
        left = self._left(key)
        if left is not None and left <= 0:
            raise self._used_up(key)

    def enter(self, key: Key) -> None:
        """Take note that a session of ``key`` begins."""
        self._sessions[key.name] += 1

    def leave(self, key: Key) -> None:
        """Take note that it is over."""
        self._sessions[key.name] -= 1

    def meter(self, key: Key) -> Meter:
        """Return what is told the samples that a session hears; raises LimitReached over them."""
        return functools.partial(self._hear, key)

    def _hear(self, key: Key, samples: int) -> None:
        left = self._left(key)
        self._samples[key.name] += samples
        if left is not None and samples > left:
            raise self._used_up(key)

    def _left(self, key: Key) -> int | None:
        """Return the samples that a key may send today; none is any number."""
        day = int(self._clock() // _DAY)
        if day != self._day:
            self._day = day
            self._samples.clear()
        allowed = self._allowed(key)
        return allowed * CLOCK_RATE - self._samples[key.name] if allowed else None

    def _allowed(self, key: Key) -> int:
        return self._max_audio_s if key.max_audio_s is None else key.max_audio_s

    def _used_up(self, key: Key) -> LimitReached:
        return LimitReached(
            f"{_who(key)} may send {self._allowed(key)} s of audio a day; go on after midnight, UTC"
        )


def _who(key: Key) -> str:
    return f"the key {key.name!r}" if key.name else "clients without a key"


__all__ = ["Quotas"]
