"""Time stamps to places on the media clock."""

from __future__ import annotations

import pytest

from stream_server.transports.rtp_clock import RTP_RATE, RtpClock


def test_frames_in_a_row_leave_no_gap() -> None:
    clock = RtpClock()
    assert [clock.place(7_000 + 960 * i, 960) for i in range(5)] == [0] * 5


def test_what_is_missing_becomes_silence() -> None:
    clock = RtpClock()
    clock.place(0, 960)
    assert clock.place(960 * 20, 960) == 960 * 19
    assert clock.place(960 * 21, 960) == 0


def test_what_was_thrown_away_becomes_silence_too() -> None:
    clock = RtpClock()
    clock.place(0, 960)
    # 960 .. 2880 were not placed: there was no room for them
    assert clock.place(2880, 960) == 1920


def test_what_is_late_is_left_out() -> None:
    clock = RtpClock()
    clock.place(9_600, 960)
    assert clock.place(9_600, 960) is None
    assert clock.place(10_560, 960) == 0


@pytest.mark.parametrize("jump", [-RTP_RATE * 2, RTP_RATE * 601, 1 << 32])
def test_a_great_jump_is_a_new_source(jump: int) -> None:
    clock = RtpClock()
    clock.place(1 << 33, 960)
    assert clock.place((1 << 33) + 960 + jump, 960) == 0
    assert clock.place((1 << 33) + 1920 + jump, 960) == 0


def test_an_hour_of_loss_and_dtx_does_not_drift() -> None:
    clock, heard = RtpClock(), 0
    frames = [i for i in range(50 * 3600) if i % 10 != 3 and not 1000 < i % 5000 < 1400]
    for index in frames:
        gap = clock.place(index * 960, 960)
        assert gap is not None
        heard += gap + 960
    assert heard == (frames[-1] + 1) * 960
