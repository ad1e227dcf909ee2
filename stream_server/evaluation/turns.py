"""What a server's engine did between two looks: its turns, counted by the server itself."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from prometheus_client.parser import text_string_to_metric_families

_SECONDS = 5.0
_SUMS = (
    "diffscribe_turn_seconds_count",
    "diffscribe_turn_seconds_sum",
    "diffscribe_batch_rows_sum",
)


@dataclass(frozen=True, slots=True)
class Turns:
    """Turns of an engine."""

    count: int
    mean_ms: float
    mean_rows: float


def read_metrics(url: str) -> dict[str, float]:
    """Read what a server counts: its metrics without labels, by name.

    Args:
        url: of its WebSocket.

    Raises:
        OSError: it does not tell.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.replace("ws", "http", 1)
    page = urlunsplit((scheme, parts.netloc, "/metrics", "", ""))
    with urllib.request.urlopen(page, timeout=_SECONDS) as answer:
        text = answer.read().decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }


class TurnWatch:
    """Asks a server's ``/metrics``.

    Args:
        url: of its WebSocket.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._before = self._read()

    def look(self) -> Turns | None:
        """Return the turns since the last look; none where the server does not tell."""
        before, now = self._before, self._read()
        self._before = now
        if before is None or now is None:
            return None
        count, seconds, rows = (now[name] - before[name] for name in _SUMS)
        if not count:
            return Turns(0, 0.0, 0.0)
        return Turns(int(count), round(1000 * seconds / count, 2), round(rows / count, 2))

    def _read(self) -> dict[str, float] | None:
        try:
            found = read_metrics(self._url)
        except OSError:
            return None
        return found if found.keys() >= set(_SUMS) else None


__all__ = ["TurnWatch", "Turns", "read_metrics"]
