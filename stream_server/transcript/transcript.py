"""From hypotheses to text that people can read while it grows: stable and tentative.

Pure. One :class:`Transcript` for one segment. A word is stable once two hypotheses in a row had
it at the same place, except the last word of a partial, which may have been cut in its middle, a
word of little confidence, which more audio often changes, and words whose audio may yet be cut off
for the next segment to say. From partial to partial stable
text only grows: what a later one says against it is not shown, and what it says after it is.

The final is what was heard in the whole segment, whatever the partials said. How many of them there
were, and how far each had heard, depends on the pace of the audio and on how busy the server is; a
final must depend on its audio alone, or a stream that is played again, resumed or sent as a file
would have another transcript.
"""

from __future__ import annotations

from dataclasses import dataclass

from stream_server.recogniser.interface import SAMPLE_RATE, Hypothesis, HypothesisWord
from stream_server.transcript.text import begin_at, follow, join, without_leading_space

_TIME_DOUBT = SAMPLE_RATE // 10
"""Samples by which the end of a word may be wrong: it is aligned, not measured."""
_SURE = 0.5
"""Confidence from which on a word may become stable. Of the stable words of 126 segments of real
speech, finals of the embedded model corrected 35 in 1,000, and without this bound 57; 55 % of all
words were stable before the final, and 77 % without."""


@dataclass(frozen=True, slots=True)
class TranscriptUpdate:
    """What a segment says after one more hypothesis."""

    stable: str
    """Does not change before the final; of a final, the whole text."""
    tentative: str
    """May be rewritten; follows ``stable`` with nothing between."""
    words: tuple[HypothesisWord, ...]
    """Of both; times in samples from the start of the segment."""
    revision: int
    """Counts up from 1 within the segment."""
    start: int
    """Samples."""
    end: int
    """Samples; how far the audio behind this text reaches."""
    is_final: bool

    @property
    def text(self) -> str:
        """The whole text."""
        return self.stable + self.tentative


class Transcript:
    """The text of one segment.

    Args:
        segment: Its number.
        start: Samples; its first one.
        onset: Samples; where speech began, as no word does before.
    """

    def __init__(self, segment: int, start: int, onset: int = 0) -> None:
        self.segment = segment
        self.start = start
        self._onset = onset - start
        self._words: tuple[HypothesisWord, ...] = ()
        """As of the last update: the stable ones and what followed them."""
        self._stable = 0
        """How many of them are stable."""
        self._revision = 0

    @property
    def revision(self) -> int:
        """Of the last update; 0 before the first."""
        return self._revision

    @property
    def stable(self) -> str:
        """The stable text so far."""
        return join(self._words[: self._stable])

    def update(
        self, hypothesis: Hypothesis, end: int, is_final: bool, earliest_cut: int | None = None
    ) -> TranscriptUpdate:
        """Take the newest hypothesis of the segment.

        Args:
            hypothesis: A finished one: with words.
            end: Samples; how far the audio behind it reaches.
            is_final: Whether it is of the whole segment.
            earliest_cut: Samples; the segment may be made to end anywhere from here on, so no word
                beyond becomes stable before the final. None where that cannot happen.
        """
        words = begin_at(without_leading_space(hypothesis.words), self._onset)
        if is_final:
            self._stable = len(words)
            return self._show(words, end, is_final)
        words = follow(self._words[: self._stable], words)
        # Words without times may be anywhere in the audio.
        limit = len(words)
        if earliest_cut is not None and end > earliest_cut:
            limit = self._said_before(words, earliest_cut)
        self._stable = self._survivors(words, limit)
        return self._show(words, end, is_final)

    def close(self, end: int) -> TranscriptUpdate:
        """End the segment without a hypothesis: what is stable is its text."""
        return self._show(self._words[: self._stable], end, is_final=True)

    def _said_before(self, words: tuple[HypothesisWord, ...], position: int) -> int:
        """How many of the words, from the first on, are known to end before ``position``."""
        for index, word in enumerate(words):
            if word.end is None or self.start + word.end > position - _TIME_DOUBT:
                return index
        return len(words)

    def _survivors(self, words: tuple[HypothesisWord, ...], limit: int) -> int:
        count = self._stable
        limit = min(limit, len(words) - 1)
        for old, new in zip(self._words[count:], words[count:limit], strict=False):
            if old.text != new.text or new.confidence < _SURE:
                break
            count += 1
        return count

    def _show(
        self, words: tuple[HypothesisWord, ...], end: int, is_final: bool
    ) -> TranscriptUpdate:
        self._words = words
        self._revision += 1
        return TranscriptUpdate(
            stable=join(words[: self._stable]),
            tentative=join(words[self._stable :]),
            words=words,
            revision=self._revision,
            start=self.start,
            end=end,
            is_final=is_final,
        )


__all__ = ["Transcript", "TranscriptUpdate"]
