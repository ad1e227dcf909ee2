"""How much of the engine the finals of sessions take, and how many sessions therefore fit.

Pure: no clock. A final that waits behind others is late, however fast the model: with half of the
engine's time taken by finals every second one waits. So sessions are refused long before the time
is used up; what is left of it goes to partials.
"""

from __future__ import annotations

from collections import Counter, deque

from stream_server.scheduler.costs import TurnCosts

_WINDOW = 10.0
"""Seconds over which the present load is taken."""
_HALF_LIFE = 60.0
"""Seconds after which what sessions took counts half."""
_PRIOR = 60.0
"""Session-seconds that the assumption about a session counts as much as."""
_SEGMENT = 4.0
"""Seconds: a session whose habits are not known says a segment of this length, all the time."""
_LEAST = 0.25
"""Of what is assumed: a silent session may begin to speak."""


class UrgentLoad:
    """What finals took of the engine of late, by stream."""

    def __init__(self) -> None:
        self.total = 0.0
        """Seconds of work ever."""
        self._recent: deque[tuple[float, str, float]] = deque()
        self._streams: Counter[str] = Counter()
        """Items of ``_recent`` of each stream."""
        self._work = 0.0

    def add(self, now: float, stream: str, work: float) -> None:
        """Take note of ``work`` (seconds) for a stream."""
        self.total += work
        self._work += work
        self._streams[stream] += 1
        self._recent.append((now, stream, work))
        self._forget(now)

    def of_several(self, now: float) -> float:
        """Return the share of the engine's time; 0 where it is all one stream's."""
        self._forget(now)
        return max(0.0, self._work) / _WINDOW if len(self._streams) > 1 else 0.0

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - _WINDOW:
            _, stream, work = self._recent.popleft()
            self._work -= work
            self._streams[stream] -= 1
            if not self._streams[stream]:
                del self._streams[stream]


class Demand:
    """What a session takes on average, and how many fit.

    Args:
        share: of the engine's time that the finals of all sessions may take; 0 is no bound.
        max_rows: rows of a full step.
        steps: denoising steps of a final.
    """

    def __init__(self, share: float, max_rows: int, steps: int) -> None:
        self._share = share
        self._max_rows = max_rows
        self._steps = steps
        self._now: float | None = None
        self._sessions = 0
        self._work = 0.0
        self._recent_work = 0.0
        self._recent_seconds = 0.0

    def observe(self, now: float, sessions: int, work: float) -> None:
        """Take note of the present; to be called whenever a session comes or goes.

        Args:
            now: seconds.
            sessions: that are inside from now on.
            work: seconds that finals ever took, as :attr:`UrgentLoad.total`.
        """
        if self._now is not None:
            passed = max(0.0, now - self._now)
            left = 0.5 ** (passed / _HALF_LIFE)
            self._recent_seconds = self._recent_seconds * left + self._sessions * passed
            self._recent_work = self._recent_work * left + work - self._work
        self._now, self._sessions, self._work = now, sessions, work

    def fits(self, costs: TurnCosts) -> int | None:
        """Return how many sessions fit, at least one; none where there is no bound."""
        assumed = costs.work(self._steps, _SEGMENT, self._max_rows) / _SEGMENT
        seconds = _PRIOR + self._recent_seconds
        each = max(_LEAST * assumed, (_PRIOR * assumed + self._recent_work) / seconds)
        return max(1, int(self._share / each + 1e-6)) if self._share and each else None


__all__ = ["Demand", "UrgentLoad"]
