"""The reader of raw samples by itself; with resampling it is in test_audio.py."""

from __future__ import annotations

import numpy as np
import pytest

from stream_server.errors import BadAudio
from stream_server.pcm import PcmReader, parse_wav, sniff


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", None),
        (b"RIFF", None),
        (b"RIFF\0\0\0\0WAVE", "WAV"),
        (b"RIFF\0\0\0\0AVI ", ""),
        (b"OggS\0\2\0\0\0\0\0\0", "Ogg"),
        (b"\x1aE\xdf\xa3\0\0\0\0\0\0\0\0", "WebM"),
        (bytes(12), ""),
        (b"\xff" * 12, ""),
        (b"\xff\xfb\x90\0" + bytes(8), None),
    ],
)
def test_sniffing(head: bytes, kind: str | None) -> None:
    assert sniff(head) == kind


def test_samples_are_planar_and_channels_interleaved() -> None:
    reader = PcmReader("pcm_s16le", 16000, 2)
    data = np.arange(20, dtype="<i2")
    samples = reader.feed(data.tobytes())
    np.testing.assert_array_equal(samples * 32768, [data[0::2], data[1::2]])


def test_nothing_comes_until_it_is_clear_what_begins() -> None:
    reader = PcmReader("mulaw", 8000, 1)
    assert [reader.feed(b"\xff").shape[1] for _ in range(13)] == [0] * 11 + [12, 1]


def test_a_header_that_never_ends_is_refused() -> None:
    reader = PcmReader("pcm_s16le", 16000, 1)
    with pytest.raises(BadAudio, match="no end"):
        reader.feed(b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\x0f" + bytes(100))


def test_a_stream_cut_in_its_wav_header_is_told() -> None:
    reader = PcmReader("pcm_s16le", 16000, 1)
    reader.feed(b"RIFF\0\0\0\0WAVEfmt \x10\0")
    with pytest.raises(BadAudio, match="WAV"):
        reader.finish()


def test_a_wav_header_is_read_once_it_is_whole() -> None:
    head = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\6\0\2\0\x40\x1f\0\0\0\0\0\0\2\0\x08\0data\4\0\0\0"
    assert [parse_wav(head[:cut]) for cut in (12, 30, len(head) - 1)] == [None] * 3
    header = parse_wav(head + b"abcd")
    assert header is not None
    assert (header.encoding, header.sample_rate, header.channels) == ("alaw", 8000, 2)
    assert (header.offset, header.size) == (len(head), 4)
