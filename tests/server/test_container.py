"""Opus packets out of hand-made WebM and Ogg; recorders' output is in test_audio.py."""

from __future__ import annotations

import struct

import pytest

from stream_server.container import OggReader, OpusHead, WebmReader, ogg_checksum, parse_opus_head
from stream_server.errors import BadAudio

HEAD = b"OpusHead\1\1\x38\1\x80\xbb\0\0\0\0\0"
ENDLESS = b"\x01" + b"\xff" * 7


def element(name: int, payload: bytes) -> bytes:
    size = struct.pack("!Q", len(payload) | 1 << 56)
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + size + payload


def live_webm(*clusters: bytes, codec: bytes = b"A_OPUS", private: bytes = HEAD) -> bytes:
    """What a live recorder writes: a segment and clusters of unknown length."""
    track = element(0xD7, b"\1") + element(0x86, codec) + element(0x63A2, private)
    video = element(0xD7, b"\2") + element(0x86, b"V_VP8")
    head = element(0x1A45DFA3, element(0x4282, b"webm")) + b"\x18\x53\x80\x67" + ENDLESS
    head += element(0x1654AE6B, element(0xAE, video) + element(0xAE, track))
    return head + b"".join(b"\x1f\x43\xb6\x75" + ENDLESS + cluster for cluster in clusters)


def block(data: bytes, track: int = 1, flags: int = 0x80) -> bytes:
    return bytes([0x80 | track, 0, 0, flags]) + data


def page(flags: int, lacing: bytes, body: bytes, serial: int = 7) -> bytes:
    head = struct.pack("<4sBBqIII", b"OggS", 0, flags, 0, serial, 0, 0)
    data = head + bytes([len(lacing)]) + lacing + body
    return data[:22] + struct.pack("<I", ogg_checksum(data)) + data[26:]


BEGIN = page(2, bytes([19]), HEAD) + page(0, b"\x08", b"OpusTags")


def test_a_live_recording_with_video_gives_the_audio() -> None:
    data = live_webm(
        element(0xE7, b"\0") + element(0xA3, block(b"one")),
        element(0xA3, block(bytes(200_000), track=2))
        + element(0xA0, element(0xA1, block(b"two", flags=0)) + element(0x75A2, b"\1")),
    )
    whole = WebmReader().feed(data)
    assert whole == [OpusHead(HEAD, 1), b"one", b"two"]
    reader = WebmReader()
    assert [item for byte in data for item in reader.feed(bytes([byte]))] == whole


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (live_webm(codec=b"A_VORBIS"), "V_VP8, A_VORBIS and no Opus"),
        (live_webm(private=b"OpusHead"), "broken OpusHead"),
        (live_webm(element(0xA3, block(b"x", flags=0x02))), "laces"),
        (live_webm(element(0xA3, block(bytes(70_000)))), "70004 bytes"),
        (live_webm(b"\xa3" + ENDLESS), "endless"),
        (live_webm(b"\0\0\0\0"), "no element begins"),
        (live_webm(element(0x4444, b"")), "0x4444 is no element"),
        (element(0x1A45DFA3, element(0x4282, b"matrix")), "not WebM"),
        (element(0x1A45DFA3, b"\x42\x82\x88w"), "outgrows"),
        (element(0x1A45DFA3, b"") + element(0x1654AE6B, b"\xae\x88x"), "outgrows"),
    ],
)
def test_broken_webm_is_told(data: bytes, said: str) -> None:
    with pytest.raises(BadAudio, match=said):
        WebmReader().feed(data)


def test_packets_over_pages_are_joined() -> None:
    reader = OggReader()
    packets = reader.feed(
        BEGIN
        + page(0, b"\x03\xff", b"one" + b"a" * 255)
        + page(1, b"\xff\x05\x00\x03", b"b" * 255 + b"ccccc" + b"two")
    )
    assert packets == [OpusHead(HEAD, 1), b"one", b"a" * 255 + b"b" * 255 + b"ccccc", b"two"]


def test_a_packet_without_its_beginning_is_left_out() -> None:
    assert OggReader().feed(BEGIN + page(1, b"\x04\x03", b"lost" + b"two"))[1:] == [b"two"]
    cut = BEGIN + page(0, b"\xff", b"a" * 255) + page(0, b"\x03", b"two")
    assert OggReader().feed(cut)[1:] == [b"two"]


def test_other_streams_are_passed_over() -> None:
    data = page(2, b"\x07", b"\x80theora", serial=9) + BEGIN
    data += page(0, b"\x03", b"vid", serial=9) + page(0, b"\x03", b"one")
    assert OggReader().feed(data)[1:] == [b"one"]


def test_large_tags_are_not_kept() -> None:
    reader = OggReader()
    reader.feed(page(2, bytes([19]), HEAD))
    for number in range(40):
        reader.feed(page(number > 0, b"\xff" * 255, bytes(255 * 255)))
    assert len(reader._partial or b"") == 0
    assert reader.feed(page(1, b"\x01", b"x") + page(0, b"\x03", b"one")) == [b"one"]


def test_a_packet_larger_than_opus_allows_is_refused() -> None:
    reader = OggReader()
    reader.feed(BEGIN)
    reader.feed(page(0, b"\xff" * 255, bytes(255 * 255)))
    with pytest.raises(BadAudio, match="larger than Opus"):
        reader.feed(page(1, b"\xff" * 255, bytes(255 * 255)))


def test_the_checksum_is_oggs() -> None:
    # Of one byte: the polynomial 0x04c11db7 itself (RFC 3533, 6).
    assert ogg_checksum(b"\x01") == 0x04C11DB7


@pytest.mark.parametrize("channels", [0, 3, 255])
def test_only_mono_and_stereo_are_taken(channels: int) -> None:
    with pytest.raises(BadAudio, match=f"{channels} channels"):
        parse_opus_head(HEAD[:9] + bytes([channels]) + HEAD[10:], "ogg")
