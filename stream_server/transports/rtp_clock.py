"""Where decoded RTP audio belongs on the media clock. Pure: integers only.

The clock is the sender's RTP time stamps, counted from the first frame: what was lost on the way,
or left out in silence (DTX), or thrown away here, leaves a gap that becomes silence, so that word
times do not drift from what the speaker's side recorded.
"""

from __future__ import annotations

RTP_RATE = 48_000
"""Hertz of Opus in RTP (RFC 7587, 4.1)."""
_LONGEST_GAP = 600 * RTP_RATE
"""Samples. A greater jump, and any long one back, is a new source and no gap."""
_LONGEST_STEP_BACK = RTP_RATE
"""Samples."""


class RtpClock:
    """The clock of one track."""

    def __init__(self) -> None:
        self._next: int | None = None

    def place(self, timestamp: int, samples: int) -> int | None:
        """Take the next frame.

        Args:
            timestamp: of its first sample, without wrap-around.
            samples: that it has.

        Returns:
            Samples of silence that go before it, or none where the frame is of a time that has
            passed and must be left out.
        """
        gap = 0 if self._next is None else timestamp - self._next
        if -_LONGEST_STEP_BACK <= gap < 0:
            return None
        if not 0 <= gap <= _LONGEST_GAP:
            gap = 0
        self._next = timestamp + samples
        return gap


__all__ = ["RTP_RATE", "RtpClock"]
