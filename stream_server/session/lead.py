"""The beginning of a resumed channel: audio from before the break, which is heard once more.

What is said there is known already; but whether what follows is speech depends on it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from stream_protocol.messages import ResumeChannel
from stream_server.segmenter.segmenter import FRAME


class Lead:
    """Counts the frames of one channel that are not transcribed again.

    Args:
        origin: Samples; the position of the first frame.
        place: Where the channel goes on; none is at ``origin``.
    """

    def __init__(self, origin: int, place: ResumeChannel | None) -> None:
        covered = place.covered if place else origin
        # Up: the last frame of a stream is partly padding, and its final ends before that.
        self._left = -(-(covered - origin) // FRAME)
        self.end = origin + self._left * FRAME
        """Samples; the position from which on speech is transcribed."""
        self.is_speaking = place is not None and place.speaking
        """Whether a segment runs there."""
        self.heard: tuple[float, ...] = ()
        """Probability of speech of its newest frames."""

    def pass_over(self, speech: Sequence[float]) -> int:
        """Take the speech probabilities of frames, and return how many of them belong to it."""
        count = min(self._left, len(speech))
        self._left -= count
        if count:
            self.heard = (*self.heard, *speech[:count])[-_KEPT:]
        return count

    @property
    def is_over(self) -> bool:
        """Whether all of it has come."""
        return self._left == 0


_KEPT = 256
"""Frames of which the probability is kept: more than a segmenter looks back."""


__all__ = ["Lead"]
