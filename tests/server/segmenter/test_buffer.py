"""The audio that a segmenter keeps."""

from __future__ import annotations

import numpy as np
import pytest

from stream_server.segmenter.buffer import PcmBuffer


def ramp(start: int, end: int) -> np.ndarray:
    return np.arange(start, end, dtype=np.float32)


def test_read_gives_what_was_appended_at_its_position() -> None:
    buffer = PcmBuffer(position=1000)
    buffer.append(ramp(1000, 1500))
    buffer.append(ramp(1500, 1700))
    assert (buffer.start, buffer.end) == (1000, 1700)
    np.testing.assert_array_equal(buffer.read(1400, 1600), ramp(1400, 1600))


def test_read_is_a_copy() -> None:
    buffer = PcmBuffer()
    buffer.append(ramp(0, 10))
    buffer.read(0, 10)[:] = -1
    np.testing.assert_array_equal(buffer.read(0, 10), ramp(0, 10))


def test_dropped_audio_cannot_be_read() -> None:
    buffer = PcmBuffer()
    buffer.append(ramp(0, 100))
    buffer.drop_before(40)
    with pytest.raises(ValueError, match=r"39\.\.50 is not inside 40\.\.100"):
        buffer.read(39, 50)
    buffer.drop_before(10_000)
    assert (buffer.start, buffer.end) == (100, 100)


def test_positions_survive_growing_moving_and_shrinking() -> None:
    buffer = PcmBuffer()
    position = 0
    sizes: set[int] = set()
    for keep in (500, 200_000, 300):
        for _ in range(300):
            buffer.append(ramp(position, position + 1600))
            position += 1600
            buffer.drop_before(position - keep)
            low = buffer.start
            np.testing.assert_array_equal(buffer.read(low, low + 200), ramp(low, low + 200))
            sizes.add(buffer.capacity)
        assert buffer.read(position - 200, position)[-1] == position - 1
    assert max(sizes) >= 200_000
    assert buffer.capacity == min(sizes) == 1 << 15
