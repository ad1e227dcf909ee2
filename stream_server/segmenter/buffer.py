"""Audio of a stream that is still needed: one array that grows and shrinks, addressed by position.

Knows nothing about speech. Appending costs a copy of what is appended; what is dropped costs
nothing until the array is full, when what is left moves to its front.
"""

from __future__ import annotations

import numpy as np

from stream_server.recogniser.interface import Pcm

_SMALLEST = 1 << 15
"""Samples (2 s); pre-roll and a chunk fit, so a silent stream never allocates again."""


class PcmBuffer:
    """The samples from ``start`` to ``end`` of a stream.

    Args:
        position: Samples; where the stream begins on its media clock.
    """

    def __init__(self, position: int = 0) -> None:
        self._data = np.empty(_SMALLEST, np.float32)
        self._head = 0
        self._tail = 0
        self._start = position

    @property
    def start(self) -> int:
        """Position of the first sample kept."""
        return self._start

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self._start + self._tail - self._head

    @property
    def capacity(self) -> int:
        """Samples for which memory is held."""
        return len(self._data)

    def append(self, pcm: Pcm) -> None:
        """Take ``pcm`` as what follows; it is copied."""
        if self._tail + len(pcm) > len(self._data):
            self._make_room(len(pcm))
        # Not array to array: numpy lets go of the interpreter lock for that and then waits for it,
        # which on a busy server takes a thousand times as long as the copy.
        source = np.ascontiguousarray(pcm, np.float32)
        self._data.data[self._tail : self._tail + len(pcm)] = source.data
        self._tail += len(pcm)

    def drop_before(self, position: int) -> None:
        """Forget the samples before ``position``."""
        if position > self._start:
            count = min(position, self.end) - self._start
            self._head += count
            self._start += count

    def read(self, start: int, end: int) -> Pcm:
        """Return a copy of the samples from ``start`` to ``end``, both inside the buffer."""
        if not self._start <= start <= end <= self.end:
            raise ValueError(f"{start}..{end} is not inside {self._start}..{self.end}")
        offset = self._head - self._start
        return self._data[start + offset : end + offset].copy()

    def _make_room(self, count: int) -> None:
        kept = self._data[self._head : self._tail]
        # Twice what is needed, so that moves stay rare; much more than that is given back, so
        # that one long segment does not hold its memory for the rest of the stream.
        wanted = max(_SMALLEST, 1 << (2 * (len(kept) + count) - 1).bit_length())
        target = self._data
        if wanted > len(self._data) or wanted * 4 <= len(self._data):
            target = np.empty(wanted, np.float32)
        target[: len(kept)] = kept
        self._data, self._head, self._tail = target, 0, len(kept)


__all__ = ["PcmBuffer"]
