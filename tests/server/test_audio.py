"""Audio of every announced kind becomes mono float32 at 16 kHz, whatever the pieces it came in."""

from __future__ import annotations

import io
import itertools
import struct
import warnings
import wave

import av
import numpy as np
import pytest
import soxr

from stream_server.audio import AudioChunk, StreamDecoder, decode_blocks, decode_file
from stream_server.container import ogg_checksum
from stream_server.errors import BadAudio

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    audioop = pytest.importorskip("audioop")

RATES = (8000, 16000, 24000, 44100, 48000)


def sweep(rate: int, seconds: float = 1.0, top: float = 3000.0) -> np.ndarray:
    """A sine from 100 Hz to ``top``, faded at both ends."""
    t = np.arange(int(rate * seconds)) / rate
    phase = 2 * np.pi * (100 * t + (top - 100) * t**2 / (2 * seconds))
    return (0.5 * np.sin(phase) * np.hanning(len(t)) ** 0.25).astype(np.float32)


def s16(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def pieces(data: bytes, seed: int) -> list[bytes]:
    """Cut ``data`` at random, with empty and one-byte pieces among them."""
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(data) + 1, 40))
    edges = [0, 1, 2, 3, *cuts.tolist(), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(sorted(edges))]


def decode(decoder: StreamDecoder, parts: list[bytes]) -> list[np.ndarray]:
    outputs = [decoder.feed(part) for part in parts] + [decoder.finish()]
    outputs = [output for output in outputs if any(len(channel) for channel in output)]
    return [np.concatenate(channel) for channel in zip(*outputs, strict=True)]


def snr(reference: np.ndarray, other: np.ndarray) -> float:
    """Decibels over the common part, the edges left out."""
    n = min(len(reference), len(other))
    a, b = reference[400 : n - 400], other[400 : n - 400]
    return float(10 * np.log10((a**2).sum() / max(((a - b) ** 2).sum(), 1e-12)))


def record(kind: str, samples: np.ndarray, codec: str = "libopus", rate: int = 48000) -> bytes:
    """Encode as a browser's recorder does; ``samples`` is [channels, n]."""
    layout = "mono" if len(samples) == 1 else "stereo"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        interleaved = (samples.T.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()


def ogg_page(flags: int, packets: list[bytes]) -> bytes:
    lacing = b"".join(b"\xff" * (len(p) // 255) + bytes([len(p) % 255]) for p in packets)
    page = struct.pack("<4sBBqIII", b"OggS", 0, flags, 0, 7, 0, 0)
    page += bytes([len(lacing)]) + lacing + b"".join(packets)
    return page[:22] + struct.pack("<I", ogg_checksum(page)) + page[26:]


def wav(samples: np.ndarray, rate: int = 16000, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(s16(samples))
    return buffer.getvalue()


# --- raw samples ---------------------------------------------------------------------------------


def test_16_khz_passes_untouched() -> None:
    samples = np.arange(-2000, 2000, dtype=np.int16)
    (decoded,) = decode(StreamDecoder("pcm_s16le", 16000, 1, "mix"), [samples.tobytes()])
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded * 32768, samples)


def test_samples_at_16_khz_are_given_at_once() -> None:
    decoder = StreamDecoder("pcm_s16le", 16000, 1, "mix")
    assert [len(decoder.feed(bytes(640))[0]) for _ in range(3)] == [320, 320, 320]


@pytest.mark.parametrize("rate", RATES)
def test_resampling_holds_back_little(rate: int) -> None:
    decoder = StreamDecoder("pcm_s16le", rate, 1, "mix")
    given = sum(len(decoder.feed(s16(sweep(rate)[: rate // 50]))[0]) for _ in range(10))
    assert 200 - given / 16 <= 5  # milliseconds


@pytest.mark.parametrize("rate", RATES)
def test_resampling_agrees_with_another_resampler(rate: int) -> None:
    samples = sweep(rate)
    data = samples.tobytes()
    (decoded,) = decode(StreamDecoder("pcm_f32le", rate, 1, "mix"), pieces(data, 1))
    expected = soxr.resample(samples, rate, 16000, quality="VHQ")
    assert abs(len(decoded) - 16000) <= 2
    assert snr(expected, decoded) > 50


@pytest.mark.parametrize("rate", [24000, 44100, 48000])
def test_what_16_khz_cannot_hold_is_filtered_out(rate: int) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 10_500 * np.arange(rate) / rate)).astype(np.float32)
    (decoded,) = decode(StreamDecoder("pcm_f32le", rate, 1, "mix"), [tone.tobytes()])
    assert np.abs(decoded[400:-400]).max() < 0.01


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_f32le", "mulaw", "alaw"])
@pytest.mark.parametrize(("channels", "mode"), [(1, "mix"), (2, "mix"), (2, "split")])
def test_any_split_of_the_bytes_gives_the_same_samples(
    rate: int, encoding: str, channels: int, mode: str
) -> None:
    noise = np.random.default_rng(3).uniform(-0.9, 0.9, rate // 10 * channels).astype(np.float32)
    data = {
        "pcm_s16le": s16(noise),
        "pcm_f32le": noise.tobytes(),
        "mulaw": audioop.lin2ulaw(s16(noise), 2),
        "alaw": audioop.lin2alaw(s16(noise), 2),
    }[encoding]
    whole = decode(StreamDecoder(encoding, rate, channels, mode), [data])
    cut = decode(StreamDecoder(encoding, rate, channels, mode), pieces(data, rate))
    assert len(whole) == len(cut) == (2 if mode == "split" else 1)
    for a, b in zip(whole, cut, strict=True):
        assert abs(len(a) - 1600) <= 2
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_g711_equals_the_standard_library(encoding: str) -> None:
    codes = bytes(range(256))
    convert = audioop.ulaw2lin if encoding == "mulaw" else audioop.alaw2lin
    (decoded,) = decode(StreamDecoder(encoding, 16000, 1, "mix"), [codes])
    np.testing.assert_array_equal(decoded * 32768, np.frombuffer(convert(codes, 2), "<i2"))


def test_stereo_is_mixed_or_split() -> None:
    left, right = sweep(16000), -0.5 * sweep(16000)
    data = np.stack([left, right], axis=1).tobytes()
    (mixed,) = decode(StreamDecoder("pcm_f32le", 16000, 2, "mix"), [data])
    split = decode(StreamDecoder("pcm_f32le", 16000, 2, "split"), [data])
    np.testing.assert_allclose(mixed, (left + right) / 2, atol=1e-6)
    np.testing.assert_array_equal(split, [left, right])


def test_mono_split_is_one_channel() -> None:
    decoder = StreamDecoder("pcm_s16le", 48000, 1, "split")
    assert decoder.channels == 1
    assert len(decoder.feed(bytes(9600))) == 1


def test_floats_a_little_too_loud_are_clipped() -> None:
    data = np.array([1.5, -2.0, 0.5] * 4, np.float32).tobytes()
    (decoded,) = decode(StreamDecoder("pcm_f32le", 16000, 1, "mix"), [data])
    np.testing.assert_array_equal(decoded, [1.0, -1.0, 0.5] * 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20, 32767.0])
def test_floats_that_are_no_samples_are_refused(value: float) -> None:
    data = np.zeros(1000, np.float32)
    data[500] = value
    decoder = StreamDecoder("pcm_f32le", 16000, 1, "mix")
    with pytest.raises(BadAudio) as caught:
        decoder.feed(data.tobytes())
    assert caught.value.field == "$.encoding"


@pytest.mark.parametrize(("encoding", "channels"), [("pcm_s16le", 1), ("mulaw", 2)])
def test_half_a_sample_at_the_end_is_refused(encoding: str, channels: int) -> None:
    decoder = StreamDecoder(encoding, 16000, channels, "mix")
    decoder.feed(bytes(641))
    with pytest.raises(BadAudio, match="1 bytes before the end of a sample"):
        decoder.finish()


@pytest.mark.parametrize("count", [0, 2, 10])
def test_a_very_short_stream_is_given_at_the_end(count: int) -> None:
    decoder = StreamDecoder("pcm_s16le", 16000, 1, "mix")
    assert len(decoder.feed(bytes(count))[0]) == 0
    assert len(decoder.finish()[0]) == count // 2


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("$.encoding", ("mp3", 16000, 1, "mix")),
        ("$.sample_rate", ("pcm_s16le", 11025, 1, "mix")),
        ("$.channels", ("pcm_s16le", 16000, 0, "mix")),
        ("$.channels", ("pcm_s16le", 16000, 255, "mix")),
        ("$.channel_mode", ("pcm_s16le", 16000, 1, "left")),
    ],
)
def test_what_is_not_allowed_is_named(field: str, arguments: tuple[str, int, int, str]) -> None:
    with pytest.raises(BadAudio) as caught:
        StreamDecoder(*arguments)
    assert caught.value.field == field


# --- a file's header in a raw stream -------------------------------------------------------------


MP3 = b"\xff\xfb\x90\x00" + bytes(413)
ADTS = bytes([0xFF, 0xF1, 0x50, 0x80, 0x08, 0x1F, 0xFC]) + bytes(57)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (b"OggS\0\2" + bytes(30), "Ogg"),
        (b"\x1aE\xdf\xa3\x01" + bytes(30), "WebM"),
        (b"fLaC\0\0\0\x22" + bytes(30), "FLAC"),
        (b"ID3\4\0\0" + bytes(30), "MP3"),
        (MP3 + MP3, "MP3"),
        (ADTS + ADTS, "AAC"),
        (b"FORM\0\0\0\0AIFF" + bytes(30), "AIFF"),
        (b"\0\0\0\x20ftypisom" + bytes(30), "MP4"),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_files_header_is_told(header: bytes, named: str, step: int) -> None:
    decoder = StreamDecoder("pcm_s16le", 16000, 1, "mix")
    parts = [header[at : at + step] for at in range(0, len(header), step)]
    with pytest.raises(BadAudio, match=named):
        decode(decoder, parts)


@pytest.mark.parametrize(
    "first", [b"\xff\xfb\x90\x00", b"\xff\xf1\x50\x80\x08\x1f", b"RIFF", b"OggX"]
)
def test_samples_that_look_a_little_like_a_header_are_samples(first: bytes) -> None:
    data = first + s16(sweep(16000))[: 8000 - len(first)]
    (decoded,) = decode(StreamDecoder("pcm_s16le", 16000, 1, "mix"), pieces(data, 5))
    np.testing.assert_array_equal(decoded * 32768, np.frombuffer(data, "<i2"))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_wav_header_that_says_what_was_announced_is_skipped(seed: int) -> None:
    samples = sweep(16000)
    decoder = StreamDecoder("pcm_s16le", 16000, 1, "mix")
    (decoded,) = decode(decoder, pieces(wav(samples) + b"LIST\4\0\0\0abcd", seed))
    np.testing.assert_array_equal(decoded * 32768, np.frombuffer(s16(samples), "<i2"))
    assert "WAV header" in (decoder.notice or "")


def test_a_wav_header_of_a_live_writer_has_no_end() -> None:
    data = bytearray(wav(sweep(16000)))
    data[40:44] = struct.pack("<I", 0xFFFFFFFF)
    (decoded,) = decode(StreamDecoder("pcm_s16le", 16000, 1, "mix"), [bytes(data)])
    assert len(decoded) == 16000


def test_audio_after_the_end_of_a_wav_file_is_refused() -> None:
    decoder = StreamDecoder("pcm_s16le", 16000, 1, "mix")
    with pytest.raises(BadAudio, match="after the end"):
        decoder.feed(wav(sweep(16000)) + b"\0\1\2\3")


@pytest.mark.parametrize(
    ("field", "rate", "channels", "encoding"),
    [
        ("$.sample_rate", 44100, 1, "pcm_s16le"),
        ("$.channels", 16000, 2, "pcm_s16le"),
        ("$.encoding", 16000, 1, "pcm_f32le"),
    ],
)
def test_a_wav_header_that_says_otherwise_is_refused(
    field: str, rate: int, channels: int, encoding: str
) -> None:
    decoder = StreamDecoder(encoding, 16000, 1, "mix")
    with pytest.raises(BadAudio, match="WAV header that says") as caught:
        decoder.feed(wav(sweep(16000), rate, channels))
    assert caught.value.field == field


def test_a_wav_header_later_in_the_stream_is_refused() -> None:
    decoder = StreamDecoder("pcm_s16le", 16000, 1, "mix")
    with pytest.raises(BadAudio, match="WAV inside"):
        decode(decoder, pieces(bytes(3000) + wav(sweep(16000)), 2))


# --- containers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["webm", "ogg"])
@pytest.mark.parametrize("step", [1, 13, 1000, 1_000_000])
def test_recorders_output_is_decoded_in_any_pieces(kind: str, step: int) -> None:
    tone = sweep(48000)
    data = record(kind, tone[np.newaxis])
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    (decoded,) = decode(StreamDecoder(kind, 16000, 1, "mix"), parts)
    expected = decode_file(data)
    assert abs(len(decoded) - 16000) < 400
    assert snr(expected, decoded) > 60
    assert snr(soxr.resample(tone, 48000, 16000), decoded) > 10


@pytest.mark.parametrize("kind", ["webm", "ogg"])
def test_packets_are_decoded_as_they_arrive(kind: str) -> None:
    data = record(kind, sweep(48000, 3.0)[np.newaxis])
    decoder = StreamDecoder(kind, 16000, 1, "mix")
    half = sum(len(decoder.feed(data[at : at + 100])[0]) for at in range(0, len(data) // 2, 100))
    assert half > 8000


@pytest.mark.parametrize("kind", ["webm", "ogg"])
def test_a_stereo_recording_is_split(kind: str) -> None:
    tone = sweep(48000)
    data = record(kind, np.stack([tone, np.zeros_like(tone)]))
    decoder = StreamDecoder(kind, 48000, 1, "split")
    left, right = decode(decoder, [data])
    assert decoder.channels == 2
    assert np.sqrt((left**2).mean()) > 20 * np.sqrt((right**2).mean())
    (mixed,) = decode(StreamDecoder(kind, 48000, 1, "mix"), [data])
    np.testing.assert_allclose(mixed, (left + right) / 2, atol=1e-4)


@pytest.mark.parametrize("kind", ["webm", "ogg"])
def test_a_truncated_recording_is_decoded_as_far_as_it_goes(kind: str) -> None:
    data = record(kind, sweep(48000, 3.0)[np.newaxis])
    (decoded,) = decode(StreamDecoder(kind, 16000, 1, "mix"), [data[: len(data) * 3 // 4]])
    assert 16000 < len(decoded) < 46000


@pytest.mark.parametrize("kind", ["webm", "ogg"])
def test_one_recording_may_follow_another(kind: str) -> None:
    data = record(kind, sweep(48000)[np.newaxis])
    stereo = record(kind, np.stack([sweep(48000)] * 2))
    (decoded,) = decode(StreamDecoder(kind, 16000, 1, "mix"), pieces(data + stereo + data, 4))
    assert abs(len(decoded) - 48000) < 1200
    with pytest.raises(BadAudio, match="from 1 to 2 channels"):
        decode(StreamDecoder(kind, 16000, 1, "split"), [data, stereo])


@pytest.mark.parametrize("kind", ["webm", "ogg"])
@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(kind: str, seed: int) -> None:
    decoder = StreamDecoder(kind, 16000, 1, "mix")
    with pytest.raises(BadAudio):
        decoder.feed(np.random.default_rng(seed).bytes(5000))


@pytest.mark.parametrize("kind", ["webm", "ogg"])
@pytest.mark.parametrize("seed", range(20))
def test_damage_is_refused_or_survived_but_nothing_else(kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(record(kind, sweep(48000)[np.newaxis]))
    for at in random.integers(0, len(data), 5):
        data[at] = random.integers(0, 256)
    try:
        (decoded,) = decode(StreamDecoder(kind, 16000, 1, "mix"), [bytes(data)])
    except BadAudio:
        return
    assert np.isfinite(decoded).all()


def test_ogg_damage_is_seen_by_the_checksum() -> None:
    data = bytearray(record("ogg", sweep(48000)[np.newaxis]))
    data[-100] ^= 0x40
    with pytest.raises(BadAudio, match="checksum"):
        StreamDecoder("ogg", 16000, 1, "mix").feed(bytes(data))


@pytest.mark.parametrize(
    ("announced", "sent", "remedy"),
    [("webm", "ogg", "announce encoding 'ogg'"), ("ogg", "webm", "announce encoding 'webm'")],
)
def test_one_container_for_the_other_is_told(announced: str, sent: str, remedy: str) -> None:
    with pytest.raises(BadAudio, match=remedy):
        StreamDecoder(announced, 16000, 1, "mix").feed(record(sent, sweep(48000)[np.newaxis]))


def test_another_codec_is_told() -> None:
    data = record("matroska", sweep(48000)[np.newaxis], codec="pcm_s16le")
    with pytest.raises(BadAudio, match="A_PCM/INT/LIT and no Opus"):
        StreamDecoder("webm", 16000, 1, "mix").feed(data)
    data = ogg_page(2, [b"\1vorbis" + bytes(23)]) + ogg_page(0, [bytes(9)])
    with pytest.raises(BadAudio, match="vorbis and no Opus"):
        StreamDecoder("ogg", 16000, 1, "mix").feed(data)


def test_absurd_channels_are_refused() -> None:
    head = b"OpusHead\1\xff\0\0\x80\xbb\0\0\0\0\xff" + bytes(257)
    with pytest.raises(BadAudio, match="255 channels") as caught:
        StreamDecoder("ogg", 16000, 1, "mix").feed(ogg_page(2, [head]))
    assert caught.value.field == "$.channels"


@pytest.mark.parametrize("kind", ["webm", "ogg"])
def test_a_header_cut_short_is_told_at_the_end(kind: str) -> None:
    decoder = StreamDecoder(kind, 16000, 1, "mix")
    decoder.feed(record(kind, sweep(48000)[np.newaxis])[:20])
    with pytest.raises(BadAudio, match="before its header"):
        decoder.finish()


@pytest.mark.parametrize("kind", ["webm", "ogg"])
def test_nothing_at_all_is_no_error(kind: str) -> None:
    decoder = StreamDecoder(kind, 16000, 1, "mix")
    assert [len(channel) for channel in decoder.feed(b"") + decoder.finish()] == [0, 0]


def test_a_small_message_does_not_expand_to_hours() -> None:
    head = b"OpusHead\1\1\0\0\x80\xbb\0\0\0\0\0"
    tags = b"OpusTags\0\0\0\0\0\0\0\0"
    silence = bytes([0xFB, 0x06]) + bytes(6)  # 6 frames of 20 ms
    data = ogg_page(2, [head]) + ogg_page(0, [tags]) + ogg_page(0, [silence] * 250) * 40
    with pytest.raises(BadAudio, match="in one message"):
        StreamDecoder("ogg", 16000, 1, "mix").feed(data)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "codec", "rate"),
    [
        ("wav", "pcm_s16le", 44100),
        ("flac", "flac", 16000),
        ("ogg", "libopus", 48000),
        ("webm", "libopus", 48000),
        ("mp4", "aac", 44100),
        ("mp3", "libmp3lame", 44100),
        ("adts", "aac", 48000),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_files_of_many_kinds_are_decoded(kind: str, codec: str, rate: int, channels: int) -> None:
    tone = sweep(rate, 1.0)
    layout = "mono" if channels == 1 else "stereo"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        interleaved = np.repeat(tone, channels)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(s16ndarray(interleaved), format="s16", layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    decoded = decode_file(buffer.getvalue())
    assert decoded.dtype == np.float32
    assert abs(len(decoded) - 16000) < 2500  # MP3 and AAC pad
    power = np.sqrt((tone**2).mean())
    assert np.sqrt((decoded**2).mean()) == pytest.approx(power, rel=0.2)


def s16ndarray(samples: np.ndarray) -> np.ndarray:
    return (samples * 32767).astype(np.int16)


def test_a_wav_file_is_exact() -> None:
    samples = sweep(16000)
    decoded = decode_file(wav(samples))
    np.testing.assert_allclose(decoded, np.trunc(samples * 32767) / 32768, atol=1e-6)


def test_a_truncated_file_is_decoded_as_far_as_it_goes() -> None:
    assert len(decode_file(wav(sweep(16000))[:16044])) == 8000


def test_a_long_file_comes_in_pieces() -> None:
    blocks = list(decode_blocks(io.BytesIO(wav(np.zeros(16000 * 20)))))
    assert len(blocks) > 10
    assert sum(map(len, blocks)) == 320_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is no audio\n" * 100,
        np.random.default_rng(0).bytes(20_000),
        wav(np.zeros(0)),
        record("webm", sweep(48000)[np.newaxis])[:40],
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
        b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1:1/</BaseURL></MPD>",
    ],
    ids=["empty", "text", "noise", "no samples", "cut", "concat", "hls", "sdp", "dash"],
)
def test_what_is_no_audio_is_refused(data: bytes) -> None:
    with pytest.raises(BadAudio) as caught:
        decode_file(data)
    assert caught.value.field == "file"


def test_a_chunk_knows_its_place() -> None:
    chunk = AudioChunk(16000, np.zeros(320, np.float32))
    assert (chunk.start, len(chunk.pcm), chunk.channel) == (16000, 320, 0)
