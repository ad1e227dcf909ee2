"""Where the frames of a track lie; rooms are in tests/integration/test_webrtc_bot.py."""

from __future__ import annotations

from stream_client.webrtc_bot import RTP_RATE, TrackClock

FRAME = 960
NOW = 16_000


def test_the_first_frame_has_just_been_spoken():
    assert TrackClock().place(1_000_000, FRAME, NOW) == NOW - 320


def test_what_follows_lies_where_its_stamp_says():
    clock = TrackClock()
    first = clock.place(0, FRAME, NOW)
    assert clock.place(FRAME, FRAME, NOW + 5000) == first + 320
    # A mute of a minute, then a packet that comes out of turn.
    assert clock.place(60 * RTP_RATE, FRAME, NOW) == first + 60 * 16_000
    assert clock.place(60 * RTP_RATE - FRAME, FRAME, NOW) == first + 60 * 16_000 - 320


def test_a_jump_that_cannot_be_is_a_new_source():
    clock = TrackClock()
    clock.place(0, FRAME, NOW)
    assert clock.place(5000 * RTP_RATE, FRAME, 3 * NOW) == 3 * NOW - 320
    assert clock.place(10 * RTP_RATE, FRAME, 4 * NOW) == 4 * NOW - 320
