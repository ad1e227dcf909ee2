"""Turns out of segments, for APIs that report turns.

A turn is everything up to a pause that ends it; a session's segment ends there too, but also where
long speech is cut with no pause. Pure: fed with the session's messages, which come in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stream_protocol.messages import Final, Partial, SpeechEnded, SpeechStarted, Word
from stream_server.transports.words import partial_words


class Cuts:
    """Tells finals that end at a pause from finals where speech was cut and goes on."""

    def __init__(self) -> None:
        self._ended: dict[int, tuple[int, int]] = {}
        """Of each channel: the last segment that ended, and where its speech did (samples)."""
        self._cut: set[int] = set()
        self._newest = -1

    def started(self, message: SpeechStarted) -> bool:
        """Take note; return whether it goes on where the segment before it was cut."""
        self._newest = message.segment
        segment, at = self._ended.get(message.channel, (-1, -1))
        if at == message.at:
            self._cut.add(segment)
        return at == message.at

    def is_newest(self, segment: int) -> bool:
        """Return whether nobody spoke after ``segment``, as far as is known."""
        return segment == self._newest

    def ended(self, message: SpeechEnded) -> None:
        """Take note of where the speech of a segment ended."""
        self._ended[message.channel] = (message.segment, message.at)

    def pop(self, segment: int) -> bool:
        """Return whether speech went on after ``segment``; asked once, with its final."""
        was_cut = segment in self._cut
        self._cut.discard(segment)
        return was_cut


@dataclass(slots=True)
class Turn:
    """What was said in a turn so far; one speaker, one channel."""

    index: int = 0
    start: int | None = None
    """Samples; none before anything was heard of it."""
    end: int = 0
    """Samples; how far the audio behind it reaches."""
    language: str | None = None
    _texts: list[str] = field(default_factory=list)
    _words: list[Word] = field(default_factory=list)
    _stable: str = ""
    _tentative: str = ""
    _running: list[Word] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether anything was heard of it."""
        return self.start is not None

    @property
    def text(self) -> str:
        """All of it, the tentative end too."""
        return self._join(self._stable + self._tentative)

    @property
    def stable_text(self) -> str:
        """What does not change before the final."""
        return self._join(self._stable)

    @property
    def words(self) -> list[Word]:
        """Of :attr:`text`."""
        return [*self._words, *self._running]

    @property
    def finished_words(self) -> int:
        """How many of :attr:`words` do not change before the final."""
        return len(self._words) + sum(word.confidence == 1.0 for word in self._running)

    def take_partial(self, partial: Partial) -> bool:
        """Take what a running segment says so far; false where that is no news."""
        if (partial.stable, partial.tentative) == (self._stable, self._tentative):
            return False
        self._reach(partial.start, partial.end)
        self._stable, self._tentative = partial.stable, partial.tentative
        self._running = partial_words(partial)
        return True

    def take_final(self, final: Final) -> None:
        """Take what a segment said."""
        if final.text or self.is_open:
            self._reach(final.start, final.end)
        if final.text:
            self._texts.append(final.text)
            self._words += final.words or []
            self.language = final.language or self.language
        self._stable, self._tentative, self._running = "", "", []

    def next(self) -> Turn:
        """Return the turn after this one."""
        return Turn(self.index + 1, end=self.end)

    def _reach(self, start: int, end: int) -> None:
        self.start = start if self.start is None else self.start
        self.end = max(self.end, end)

    def _join(self, running: str) -> str:
        return " ".join(text for text in (*self._texts, running.strip()) if text)


__all__ = ["Cuts", "Turn"]
