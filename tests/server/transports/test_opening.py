"""What a stream is, told by its first bytes, and packets without a container."""

from __future__ import annotations

import struct

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_protocol.messages import Endpointing, Start, Stop
from stream_server.audio import StreamDecoder
from stream_server.errors import BadAudio
from stream_server.transports.opening import (
    Announced,
    AudioFormat,
    Inlet,
    OpusPackets,
    Sniffer,
)


def wav(tag: int = 1, bits: int = 16, rate: int = 8000, channels: int = 2) -> bytes:
    block = channels * bits // 8
    return b"RIFF\xff\xff\xff\xffWAVE" + struct.pack(
        "<4sIHHIIHH4sI", b"fmt ", 16, tag, channels, rate, rate * block, block, bits, b"data", 0
    )


def make(audio: AudioFormat) -> Start:
    return audio.start(endpointing=Endpointing(), language=None, partial_interval_ms=0)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (wav(), AudioFormat("pcm_s16le", 8000, 2)),
        (wav(3, 32, 48_000, 1), AudioFormat("pcm_f32le", 48_000, 1)),
        (wav(7, 8, 8000, 1), AudioFormat("mulaw", 8000, 1)),
        (b"OggS" + bytes(20), AudioFormat("ogg")),
        (b"\x1aE\xdf\xa3" + bytes(20), AudioFormat("webm")),
    ],
)
def test_containers_are_known_by_their_heads(head: bytes, expected: AudioFormat) -> None:
    assert Sniffer().feed(head) == (expected, head)
    sniffer = Sniffer()
    answers = [sniffer.feed(bytes([byte])) for byte in head]
    found = next(answer for answer in answers if answer is not None)
    assert found[0] == expected
    assert head.startswith(found[1])


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (bytes(100), "name its encoding"),
        (b"fLaC" + bytes(20), "FLAC is not decoded while it arrives"),
        (wav(1, 24), "24 bits"),
        (wav(rate=11_025), "11025 Hz"),
        (wav(channels=6), "6 channels"),
    ],
)
def test_what_cannot_be_decoded_live_is_refused(head: bytes, said: str) -> None:
    with pytest.raises(BadAudio, match=said):
        Sniffer().feed(head)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_known_refused_or_awaited(pieces: list[bytes]) -> None:
    sniffer = Sniffer()
    for piece in pieces:
        try:
            if sniffer.feed(piece) is not None:
                return
        except BadAudio:
            return


def opus_packets() -> list[bytes]:
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "s16"
    samples = (np.sin(np.arange(48_000) / 20) * 9000).astype(np.int16)[np.newaxis]
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = 48_000
    return [bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]]


def test_packets_become_an_ogg_stream_that_is_decoded() -> None:
    pages, packets = OpusPackets(), opus_packets()
    decoder = StreamDecoder("ogg", 16_000, 1, "mix")
    parts = [decoder.feed(pages.feed(packet))[0] for packet in packets]
    heard = np.concatenate([*parts, decoder.finish()[0]])
    assert abs(len(heard) - 16_000) < 800
    assert np.abs(heard[4000:12_000]).max() > 0.2


def test_a_packet_fits_a_page() -> None:
    with pytest.raises(BadAudio, match="its own"):
        OpusPackets().feed(bytes(65_025))


def test_an_inlet_that_knows_its_audio_starts_at_once() -> None:
    inlet = Inlet(Announced(AudioFormat("mulaw", 8000)), make)
    assert inlet.open() == [make(AudioFormat("mulaw", 8000))]
    assert inlet.feed(bytes(80)) == [bytes(80)]
    assert inlet.samples == 160
    assert inlet.stop() == [Stop()]


def test_an_inlet_that_does_not_waits_for_the_head() -> None:
    inlet, head = Inlet(Announced(None), make), wav()
    assert inlet.open() == []
    assert inlet.feed(head[:10]) == []
    assert inlet.samples is None
    assert inlet.feed(head[10:]) == [make(AudioFormat("pcm_s16le", 8000, 2)), head]
    assert inlet.feed(bytes(4)) == [bytes(4)]


def test_an_inlet_without_audio_stops_as_well() -> None:
    assert Inlet(Announced(None), make).stop() == [make(AudioFormat("pcm_s16le")), Stop()]


@pytest.mark.parametrize("is_ogg", [True, False])
def test_opus_comes_in_packets_or_in_ogg(is_ogg: bool) -> None:
    inlet = Inlet(Announced(None, is_packets=True), make)
    first = b"OggS" + bytes(30) if is_ogg else opus_packets()[0]
    start, data = inlet.feed(first)
    assert start == make(AudioFormat("ogg"))
    assert isinstance(data, bytes)
    assert data.startswith(b"OggS")
    assert (data == first) is is_ogg
    assert inlet.samples is None
