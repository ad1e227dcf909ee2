"""Voice activity detection: on made sounds always, on recordings where they are there."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stream_protocol.messages import RESUME_LEAD, Endpointing
from stream_server.segmenter.segmenter import FRAME, Segment, Segmenter
from stream_server.segmenter.vad import Vad, feed_together

SPEECH = Path(__file__).parents[4] / "shared" / "speech"
RATE = 16_000


def noise(seconds: float, decibels: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(int(seconds * RATE))
    return (samples * 10 ** (decibels / 20)).astype(np.float32)


def hum(seconds: float, decibels: float) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    wave = np.sin(2 * np.pi * 50 * time) + 0.3 * np.sin(2 * np.pi * 150 * time)
    return (wave * 10 ** (decibels / 20) * 2**0.5).astype(np.float32)


def vowel(seconds: float, pitch: float = 120.0) -> np.ndarray:
    """A buzz through three formants: what every syllable has."""
    time = np.arange(int(seconds * RATE)) / RATE
    wave = np.zeros_like(time)
    for harmonic in range(1, 30):
        hertz = pitch * harmonic
        gain = sum(np.exp(-(((hertz - formant) / 150) ** 2)) for formant in (600, 1200, 2500))
        wave += gain * np.sin(2 * np.pi * hertz * time)
    return (0.1 * wave / np.abs(wave).max()).astype(np.float32)


def scores(pcm: np.ndarray, chunk: int = 1600) -> list[float]:
    vad = Vad()
    result: list[float] = []
    for start in range(0, len(pcm), chunk):
        result += vad.feed(pcm[start : start + chunk])[1]
    return [*result, *vad.finish()[1]]


def segments(pcm: np.ndarray) -> list[Segment]:
    vad, segmenter = Vad(), Segmenter(Endpointing())
    events = []
    for start in range(0, len(pcm), 1600):
        events += segmenter.feed(*vad.feed(pcm[start : start + 1600]))
    events += segmenter.feed(*vad.finish())
    return [each for each in [*events, *segmenter.flush()] if isinstance(each, Segment)]


def test_frames_come_out_whole_and_nothing_is_lost() -> None:
    vad = Vad()
    pcm = noise(0.5, -40)
    pieces, count = [], 0
    for start in range(0, len(pcm), 333):
        frames, speech = vad.feed(pcm[start : start + 333])
        assert len(frames) == len(speech) * FRAME
        assert vad.pending < FRAME
        pieces.append(frames)
        count += len(speech)
    rest = vad.pending
    frames, speech = vad.finish()
    assert len(speech) == (1 if rest else 0)
    joined = np.concatenate([*pieces, frames])
    np.testing.assert_array_equal(joined[: len(pcm)], pcm)
    assert not joined[len(pcm) :].any()
    assert vad.finish()[1] == ()


@pytest.mark.parametrize("chunk", [320, 1000, 4800])
def test_chunks_change_nothing(chunk: int) -> None:
    pcm = np.concatenate([noise(0.5, -60), vowel(0.5), noise(0.5, -60)])
    np.testing.assert_allclose(scores(pcm, chunk), scores(pcm, len(pcm)), atol=1e-5)


def test_many_channels_together_are_as_each_alone() -> None:
    channels = [
        np.concatenate([noise(0.5, -60, seed), vowel(0.4, 90 + 30 * seed), noise(0.7, -50, seed)])
        for seed in range(5)
    ]
    vads = [Vad() for _ in channels]
    heard: list[list[float]] = [[] for _ in channels]
    sizes = [1600, 333, 0, 4000, 320]
    for start in range(60):
        pieces = [
            (vad, pcm[start * size : (start + 1) * size])
            for vad, pcm, size in zip(vads, channels, sizes, strict=True)
        ]
        for own, (_, speech) in zip(heard, feed_together(pieces), strict=True):
            own += speech
    for own, pcm, size in zip(heard, channels, sizes, strict=True):
        count = min(len(pcm), 60 * size) // FRAME
        np.testing.assert_allclose(own[:count], scores(pcm)[:count], atol=1e-5)
        assert len(own) == count


@pytest.mark.parametrize("frame", [0, 1, 199, 200, 777, 800, 1003])
def test_it_remembers_twenty_seconds_and_no_more(frame: int) -> None:
    generator = np.random.default_rng(frame)
    loud = np.repeat(10 ** generator.uniform(-3, -1, 60), RATE).astype(np.float32)
    pcm = noise(60, 0) * loud
    for start in range(RATE, len(pcm) - RATE, 3 * RATE):
        pcm[start : start + RATE // 2] += vowel(0.5)
    place = frame * FRAME
    late = Vad(position=place).feed(pcm[place:])[1]
    whole = scores(pcm, len(pcm))[frame:]
    memory = RESUME_LEAD // FRAME
    np.testing.assert_allclose(late[memory:], whole[memory:], atol=1e-6)
    assert late[:memory] != whole[:memory] or not frame, "there is something to remember"


@pytest.mark.parametrize(
    "pcm",
    [
        np.zeros(5 * RATE, np.float32),
        np.full(5 * RATE, 0.2, np.float32),
        noise(5, -60),
        noise(5, -40),
        noise(5, -30),
        hum(5, -50),
        hum(5, -40),
    ],
    ids=["silence", "offset", "hiss -60", "hiss -40", "hiss -30", "hum -50", "hum -40"],
)
def test_what_a_room_sounds_like_is_not_speech(pcm: np.ndarray) -> None:
    assert segments(pcm) == []


def test_a_voice_is_found_whole_in_silence_and_over_hiss() -> None:
    for room in (-90, -50):
        quiet = noise(4, room)
        pcm = np.concatenate([quiet, vowel(0.4) + noise(0.4, room), quiet])
        (segment,) = segments(pcm)
        assert segment.start <= 4 * RATE
        assert segment.end >= int(4.4 * RATE)


def test_values_out_of_range_are_clipped_not_wrapped() -> None:
    assert max(scores(vowel(0.5) * 100)) > 0.5


def clips(name: str, count: int) -> list[np.ndarray]:
    folder = SPEECH / name
    if not folder.is_dir():
        pytest.skip(f"the recordings are not here: {folder}")
    files = sorted(folder.glob("*.opus"))
    chosen = random.Random(1).sample(files, min(count, len(files)))
    return [soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32")[0] for path in chosen]


def padded(pcm: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(8000, np.float32), pcm, np.zeros(16_000, np.float32)])


@pytest.mark.speech
@pytest.mark.parametrize(
    ("name", "found"),
    [("fsdd", 0.95), ("speechocean762", 1.0), ("librispeech_untranscribed", 1.0)],
)
def test_speech_is_found_whole(name: str, found: float) -> None:
    hits, energy, kept = 0, 0.0, 0.0
    recordings = clips(name, 40)
    for recording in recordings:
        pcm = padded(recording)
        parts = segments(pcm)
        hits += bool(parts)
        if parts:
            energy += float(np.square(pcm).sum())
            kept += sum(float(np.square(part.pcm).sum()) for part in parts)
    assert hits >= found * len(recordings)
    assert kept >= 0.99 * energy


@pytest.mark.speech
@pytest.mark.parametrize("name", ["noise_kitchen", "noise_precise"])
def test_noise_is_mostly_not_speech(name: str) -> None:
    frames = [score >= 0.5 for recording in clips(name, 20) for score in scores(recording)]
    assert sum(frames) <= 0.12 * len(frames)
