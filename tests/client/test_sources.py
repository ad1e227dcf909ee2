from __future__ import annotations

import asyncio
import builtins
import sys
import types
import wave

import av
import numpy as np
import pytest

from stream_client.errors import SourceError
from stream_client.sources import (
    BYTES_PER_SECOND,
    FileSource,
    MicrophoneSource,
    decode_file,
    rechunk,
)


def tone(rate, seconds=1.0):
    time = np.arange(int(rate * seconds)) / rate
    return (8000 * np.sin(2 * np.pi * 440 * time)).astype("<i2")


def write_wav(path, samples, rate=16000, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def test_a_file_at_the_right_rate_comes_through_bit_by_bit(tmp_path):
    samples = tone(16000)
    path = write_wav(tmp_path / "a.wav", samples)
    assert b"".join(decode_file(path)) == samples.tobytes()


def test_other_rates_and_stereo_are_converted(tmp_path):
    left = tone(44100)
    path = write_wav(tmp_path / "a.wav", np.stack([left, left], 1), 44100, 2)
    out = np.frombuffer(b"".join(decode_file(path)), "<i2")
    assert abs(len(out) - 16000) <= 32
    spectrum = np.abs(np.fft.rfft(out[:16000]))
    assert abs(int(spectrum.argmax()) - 440) <= 1


def test_two_channels_stay_apart_where_that_is_asked(tmp_path):
    left, right = tone(16000), np.zeros(16000, "<i2")
    path = write_wav(tmp_path / "a.wav", np.stack([left, right], 1), 16000, 2)
    out = np.frombuffer(b"".join(decode_file(path, 2)), "<i2").reshape(-1, 2)
    assert (out[:, 0] == left).all()
    assert not out[:, 1].any()
    mono = write_wav(tmp_path / "b.wav", left)
    with pytest.raises(SourceError, match="two speakers need a channel each"):
        list(decode_file(mono, 2))


def test_a_compressed_container(tmp_path):
    path = tmp_path / "a.ogg"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(48000)[None], format="s16", layout="mono")
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert abs(len(b"".join(decode_file(path))) - BYTES_PER_SECOND) < BYTES_PER_SECOND // 20


def test_no_such_file(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        list(decode_file(tmp_path / "missing.wav"))


def test_no_audio(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"this is not audio at all" * 100)
    with pytest.raises(SourceError, match="cannot be decoded"):
        list(decode_file(path))


def test_a_folder(tmp_path):
    with pytest.raises(SourceError, match="cannot be decoded"):
        list(decode_file(tmp_path))


def test_video_only(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(SourceError, match="no audio in this file"):
        list(decode_file(path))


def test_rechunk():
    assert list(rechunk(iter([b"abc", b"", b"defgh", b"i"]), 4)) == [b"abcd", b"efgh", b"i"]
    assert list(rechunk(iter([]), 4)) == []


class Clock:
    """A clock that only sleeping moves, and each reading a little."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        self.now += 0.001
        return self.now

    async def sleep(self, seconds):
        assert seconds >= 0
        self.now += seconds


async def test_real_time_pace_does_not_drift(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(16000, 2.05))
    clock = Clock()
    begun = clock.now
    times, audio = [], b""
    async for piece in FileSource(path, clock=clock, sleep=clock.sleep):
        times.append(clock.now - begun)
        audio += piece
    assert audio == tone(16000, 2.05).tobytes()
    assert len(times) == 21
    for index, time in enumerate(times[:20]):
        # A piece comes when its last sample would have been spoken.
        assert time == pytest.approx((index + 1) * 0.1, abs=0.003)
    assert times[20] == pytest.approx(2.05, abs=0.003)


async def test_as_fast_as_possible_never_sleeps(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(16000))

    async def sleep(seconds):
        raise AssertionError

    pieces = [piece async for piece in FileSource(path, pace="max", chunk_ms=300, sleep=sleep)]
    assert [len(piece) for piece in pieces] == [9600, 9600, 9600, 3200]


# --- microphone -----------------------------------------------------------------------------------


class PortAudioError(Exception):
    pass


def fake_sounddevice(monkeypatch, stream):
    module = types.ModuleType("sounddevice")
    module.PortAudioError = PortAudioError
    module.RawInputStream = stream
    monkeypatch.setitem(sys.modules, "sounddevice", module)


async def test_the_microphone_gives_what_the_device_gives(monkeypatch):
    opened = []

    class Stream:
        def __init__(self, *, callback, **options):
            self.callback = callback
            opened.append(options)

        def __enter__(self):
            for piece in (b"ab", b"cd"):
                self.callback(memoryview(piece), 1, None, None)

        def __exit__(self, *_):
            opened.append("closed")

    fake_sounddevice(monkeypatch, Stream)
    source = MicrophoneSource("usb", chunk_ms=20)
    pieces = aiter(source)
    assert [await anext(pieces), await anext(pieces)] == [b"ab", b"cd"]
    await pieces.aclose()
    options = {"samplerate": 16000, "channels": 1, "dtype": "int16"}
    assert opened == [{**options, "blocksize": 320, "device": "usb"}, "closed"]
    assert source.lost == 0


async def test_the_microphone_counts_what_nobody_takes(monkeypatch):
    class Stream:
        def __init__(self, *, callback, **_):
            self.callback = callback

        def __enter__(self):
            for _ in range(5):
                self.callback(b"ab", 1, None, None)

        def __exit__(self, *_):
            pass

    fake_sounddevice(monkeypatch, Stream)
    source = MicrophoneSource(max_waiting=3)
    pieces = aiter(source)
    await anext(pieces)
    await asyncio.sleep(0)
    await pieces.aclose()
    assert source.lost == 2


async def test_no_device(monkeypatch):
    def refuse(**_):
        raise PortAudioError("Error querying device -1")

    fake_sounddevice(monkeypatch, refuse)
    with pytest.raises(SourceError, match="cannot be opened.*python -m sounddevice"):
        await anext(aiter(MicrophoneSource()))


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ModuleNotFoundError("sounddevice"), r"pip install 'diffscribe\[mic\]'"),
        (OSError("PortAudio library not found"), "apt install libportaudio2"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, error, remedy):
    real = builtins.__import__

    def refuse(name, *rest, **options):
        if name == "sounddevice":
            raise error
        return real(name, *rest, **options)

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SourceError, match=remedy):
        MicrophoneSource()
