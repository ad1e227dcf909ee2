"""The text of several segments as pieces to append, for APIs that cannot take a word back. Pure.

Stable words are given as they become so, at the final the rest. The pieces together are the whole
text, except where a final corrects a stable word: then what was given stays, and what the final
says after it follows. Segments may run at once, and their words still come in the order of the
segments.
"""

from __future__ import annotations

from dataclasses import dataclass

from stream_protocol.messages import Final, Partial
from stream_server.transcript.text import rest


@dataclass(slots=True)
class _Spoken:
    """A segment that has no final yet."""

    number: int
    shown: str = ""
    """Text that was given."""


class GrowingText:
    """Text that only grows; segments are begun in their order."""

    def __init__(self) -> None:
        self._running: list[_Spoken] = []
        self._finals: list[str] = []
        """None of them empty."""
        self._has_begun = False

    @property
    def text(self) -> str:
        """The finals joined."""
        return " ".join(self._finals)

    @property
    def has_begun(self) -> bool:
        """Whether a segment was begun."""
        return self._has_begun

    def begin(self, segment: int) -> None:
        """Take note that speech began."""
        self._has_begun = True
        self._running.append(_Spoken(segment))

    def grow(self, message: Partial) -> str:
        """Return what is to be appended; nothing where an earlier segment still runs."""
        if not self._running or self._running[0].number != message.segment:
            return ""
        spoken, stable = self._running[0], message.stable.rstrip()
        if not stable.startswith(spoken.shown):
            return ""
        return self._more(spoken, stable[len(spoken.shown) :])

    def finish(self, message: Final) -> str:
        """Return what is to be appended at the end of a segment."""
        if not self._running or self._running[0].number != message.segment:
            return ""
        text, spoken = message.text.strip(), self._running.pop(0)
        more = self._more(spoken, rest(spoken.shown, text))
        if text:
            self._finals.append(text)
        return more

    def _more(self, spoken: _Spoken, more: str) -> str:
        is_first = not spoken.shown
        spoken.shown += more
        return f" {more}" if more and is_first and self._finals else more


__all__ = ["GrowingText"]
