"""What a session may send: no more than its key has left, and not too fast.

Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stream_protocol.messages import CLOCK_RATE
from stream_server.config import LimitsConfig
from stream_server.errors import LimitReached

Meter = Callable[[int], None]
"""Told the samples of audio that are heard; raises LimitReached when it is enough."""


def unmetered(samples: int) -> None:
    """Let all audio pass."""


class Allowance:
    """The allowance of one session.

    Args:
        limits: How fast it may send.
        meter: How much its key may send.
        began: Seconds, of any clock.
        leads: Samples of each channel that are heard again and were metered before.
    """

    def __init__(
        self, limits: LimitsConfig, meter: Meter, began: float, leads: Sequence[int] = ()
    ) -> None:
        self._speed = limits.max_speed
        self._burst = limits.max_burst_ms / 1000
        self._meter = meter
        self._began = began
        self._samples: dict[int, int] = {}
        """Of each channel."""
        self._leads = dict(enumerate(leads))

    def hear(self, channel: int, samples: int, now: float) -> None:
        """Take note of ``samples`` more of a channel, at ``now`` (seconds).

        Raises:
            LimitReached: They are too many, or come too fast.
        """
        total = self._samples.get(channel, 0) + samples
        self._meter(min(samples, max(0, total - self._leads.get(channel, 0))))
        self._samples[channel] = total
        ahead = total / CLOCK_RATE - (now - self._began) * self._speed
        if self._speed and ahead > self._burst:
            raise LimitReached(
                f"audio may come at {self._speed:g} times the pace of speech and {self._burst:g} s "
                "ahead of it: send it as it is spoken, or upload the file"
            )


__all__ = ["Allowance", "Meter", "unmetered"]
