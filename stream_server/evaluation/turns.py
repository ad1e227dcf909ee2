"""What a server's engine did between two looks: its turns, counted by the server itself."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from prometheus_client.parser import text_string_to_metric_families

_SECONDS = 5.0
_SUMS = {
    "diffscribe_turn_seconds_count": "count",
    "diffscribe_turn_seconds_sum": "seconds",
    "diffscribe_batch_rows_sum": "rows",
}


@dataclass(frozen=True, slots=True)
class Turns:
    """Turns of an engine."""

    count: int
    mean_ms: float
    mean_rows: float


class TurnWatch:
    """Asks a server's ``/metrics``.

    Args:
        url: of its WebSocket.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        scheme = parts.scheme.replace("ws", "http", 1)
        self._url = urlunsplit((scheme, parts.netloc, "/metrics", "", ""))
        self._before = self._read()

    def look(self) -> Turns | None:
        """Return the turns since the last look; none where the server does not tell."""
        before, now = self._before, self._read()
        self._before = now
        if before is None or now is None:
            return None
        count, seconds, rows = (now[name] - before[name] for name in ("count", "seconds", "rows"))
        if not count:
            return Turns(0, 0.0, 0.0)
        return Turns(int(count), round(1000 * seconds / count, 2), round(rows / count, 2))

    def _read(self) -> dict[str, float] | None:
        try:
            with urllib.request.urlopen(self._url, timeout=_SECONDS) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            return None
        found = {
            _SUMS[sample.name]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in _SUMS
        }
        return found if len(found) == len(_SUMS) else None


__all__ = ["TurnWatch", "Turns"]
