"""Who may share a turn of the engine: finals always, others where they cost finals little.

Pure. What is urgent (finals of speakers, and what is likely to become one) is in every turn. The
rest (partials, segments of files) joins as far as it makes the turn a little longer; what runs
already and does not fit is paused, and loses nothing. Where nothing is urgent, a turn is kept short
all the same, since a final that comes meanwhile waits for its end. And the more finals there are,
the longer the rest pauses between two of its turns: partials thin out, finals keep their time.

On a GPU a step costs nearly the same whatever the rows, so there the rest is let along; without
costs everything is.
"""

from __future__ import annotations

from collections.abc import Iterable

from stream_server.scheduler.costs import CostMeter
from stream_server.scheduler.demand import UrgentLoad

_ALONG = 1.25
"""How many times longer the rest may make a turn with finals."""
_TURN = 0.1
"""Seconds that a turn without finals may take, unless a single row takes longer."""
_PAUSES = 4.0
"""How many times what the rest took it pauses, where finals take all that they may."""


class Sharing:
    """Bounds the turns of one engine.

    Args:
        share: of the engine's time that finals may take; 0 never pauses.
        max_rows: rows of a full step.
        costs: what turns take; none bounds nothing.
    """

    def __init__(self, share: float, max_rows: int, costs: CostMeter | None) -> None:
        self._share = share
        self._max_rows = max_rows
        self._costs = costs
        self.load = UrgentLoad()
        self._began = 0.0
        self._audio: dict[str, float] = {}
        self._rows: list[str] = []
        self._is_urgent = False
        self._stepped = 0
        self._started = 0.0
        self._limit = 0.0
        self._free_at = 0.0

    @property
    def free_at(self) -> float:
        """The time (seconds) from which the rest may start rows."""
        return self._free_at

    def begin(
        self, now: float, running: Iterable[str], starting: Iterable[tuple[str, float]]
    ) -> None:
        """Begin to plan a turn with what is urgent.

        Args:
            now: seconds.
            running: streams of the urgent rows that run.
            starting: streams of those that start, with their seconds of audio.
        """
        self._began = now
        self._rows, self._audio = [*running], {}
        for stream, audio in starting:
            self._rows.append(stream)
            self._audio[stream] = self._audio.get(stream, 0.0) + audio
        self._stepped, self._started = len(self._rows), sum(self._audio.values())
        self._is_urgent = bool(self._rows)
        self._limit = self._predict(0, 0.0) * _ALONG if self._is_urgent else _TURN

    def takes(self, audio: float | None = None) -> bool:
        """Take one more row of the rest into the turn, or refuse it.

        Args:
            audio: seconds, of a row that would be started; none for one that runs.
        """
        is_alone = not self._stepped
        if audio is not None and self._began < self._free_at:
            return False
        if not is_alone and self._predict(1, audio or 0.0) > self._limit:
            return False
        self._stepped += 1
        self._started += audio or 0.0
        return True

    def end(self, now: float) -> None:
        """Take note that the turn is over."""
        if not self._stepped:
            return
        seconds = max(0.0, now - self._began)
        if self._costs is not None:
            costs = self._costs.costs
            for stream in self._rows:
                self.load.add(now, stream, costs.work(1, 0.0, self._max_rows))
            for stream, audio in self._audio.items():
                self.load.add(now, stream, costs.work(0, audio, self._max_rows))
            self._costs.observe(self._stepped, self._started, seconds)
        if not self._is_urgent and self._share:
            full = min(1.0, self.load.of_several(now) / self._share)
            self._free_at = max(self._free_at, now) + seconds * _PAUSES * full
        self._stepped = 0

    def _predict(self, more: int, audio: float) -> float:
        if self._costs is None:
            return 0.0
        return self._costs.costs.predict(self._stepped + more, self._started + audio)


__all__ = ["Sharing"]
