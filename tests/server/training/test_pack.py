"""A corpus comes out of its pack as it went in, but for what Opus loses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stream_server.errors import ConfigError
from stream_server.training import pack
from stream_server.training.data import Clip
from stream_server.training.pack import (
    RATE,
    Packed,
    Samples,
    read_packs,
    read_spoken,
    write_packs,
    write_spoken,
)

TAIL = 320
"""Samples by which an Ogg of a single page may come out longer."""


def signal_to_noise(clean: Samples, coded: Samples) -> float:
    """Decibels."""
    noise = np.square(clean.astype(float) - coded.astype(float)).sum()
    return float(10 * np.log10(np.square(clean.astype(float)).sum() / max(noise, 1.0)))


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Clip]:
    """Writes a recording."""

    def write(name: str, pcm: Samples, rate: int = RATE) -> Clip:
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, pcm, rate, subtype="PCM_16")
        return Clip(path, f"text of {name}", f"speaker {name}", len(pcm) / rate, "tones")

    return write


def test_what_is_packed_comes_out(
    tmp_path: Path, record: Callable[..., Clip], tone: Callable[..., Samples]
) -> None:
    pcm = {name: tone(number, 9600 + 77 * number) for number, name in enumerate("cab")}
    clips = [record(name, each) for name, each in pcm.items()]
    counts: list[int] = []
    write_packs(tmp_path, clips, [], 24_000, counts.append)
    assert counts == [1, 2, 3]
    packed = read_packs(tmp_path, workers=1)
    assert [each.text for each in packed] == ["text of c", "text of a", "text of b"]
    assert [each.speaker for each in packed] == ["speaker c", "speaker a", "speaker b"]
    assert {each.set for each in packed} == {"tones"}
    for each, clean in zip(packed, pcm.values(), strict=True):
        assert each.pcm.dtype == np.int16
        assert 0 <= len(each.pcm) - len(clean) <= TAIL
        assert signal_to_noise(clean, each.pcm[: len(clean)]) > 20


def test_a_lower_rate_takes_less_space(
    tmp_path: Path, record: Callable[..., Clip], tone: Callable[..., Samples]
) -> None:
    noise = np.random.default_rng(0).normal(0, 3000, 32_000).astype(np.int16)
    clips = [record("long", noise)]
    sizes = []
    for rate in (8_000, 32_000):
        write_packs(tmp_path, clips, [], rate, lambda _: None)
        sizes.append((tmp_path / "pack-01.bin").stat().st_size)
    assert sizes[0] < sizes[1] / 2
    assert sizes[0] < 2 * 64_000 / 8


@pytest.mark.parametrize("samples", [400, 900])
def test_a_very_short_clip_is_kept(
    tmp_path: Path, record: Callable[..., Clip], tone: Callable[..., Samples], samples: int
) -> None:
    clean = tone(3, samples)
    write_packs(tmp_path, [record("short", clean)], [], 12_000, lambda _: None)
    (packed,) = read_packs(tmp_path, workers=1)
    assert 0 <= len(packed.pcm) - samples <= TAIL
    assert signal_to_noise(clean, packed.pcm[:samples]) > 6


def test_no_clips_make_an_empty_pack(tmp_path: Path) -> None:
    write_packs(tmp_path, [], [], 12_000, lambda _: None)
    assert read_packs(tmp_path, workers=1) == []


def test_a_recording_that_is_of_no_use_is_refused(
    tmp_path: Path, record: Callable[..., Clip], tone: Callable[..., Samples]
) -> None:
    fast = record("fast", tone(3, 24_000), rate=48_000)
    none = replace(fast, audio=tmp_path / "none.wav")
    broken = replace(fast, audio=tmp_path / "broken.wav")
    broken.audio.write_bytes(b"no audio")
    short = replace(record("short", tone(3, 8000)), end=8001)
    for clip, told in (
        (fast, "16 kHz mono, not 48000 Hz"),
        (none, r"none\.wav"),
        (broken, r"broken\.wav"),
        (short, "at most 8000, the samples of"),
    ):
        with pytest.raises(ConfigError, match=told):
            write_packs(tmp_path, [clip], [], 12_000, lambda _: None)


@pytest.mark.parametrize(("start", "end"), [(3200, 12_800), (0, 6400), (9600, None), (100, 500)])
def test_a_stretch_of_a_recording_is_packed_alone(
    tmp_path: Path,
    record: Callable[..., Clip],
    tone: Callable[..., Samples],
    start: int,
    end: int | None,
) -> None:
    whole = tone(4, 16_000)
    clip = replace(record("whole", whole), start=start, end=end)
    write_packs(tmp_path, [clip], [], 24_000, lambda _: None)
    (packed,) = read_packs(tmp_path, workers=1)
    part = whole[start:end]
    assert 0 <= len(packed.pcm) - len(part) <= TAIL
    assert signal_to_noise(part, packed.pcm[: len(part)]) > 15


def test_clips_kept_for_testing_are_known(
    tmp_path: Path, record: Callable[..., Clip], tone: Callable[..., Samples]
) -> None:
    clips = [record(name, tone(1)) for name in "abc"]
    write_packs(tmp_path, clips[:2], clips[2:], 24_000, lambda _: None)
    packed = read_packs(tmp_path, workers=1)
    assert [(each.text[-1], each.held_out) for each in packed] == [
        ("a", False),
        ("b", False),
        ("c", True),
    ]


def test_a_large_corpus_is_several_files(
    tmp_path: Path,
    record: Callable[..., Clip],
    tone: Callable[..., Samples],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clips = [record(name, tone(number, 9600)) for number, name in enumerate("abcde")]
    (whole,) = write_packs(tmp_path, clips, [], 24_000, lambda _: None)
    monkeypatch.setattr(pack, "PART_BYTES", whole.stat().st_size // 2)
    parts = write_packs(tmp_path, clips, [], 24_000, lambda _: None)
    assert [path.name for path in parts] == ["pack-01.bin", "pack-02.bin", "pack-03.bin"]
    texts = [each.text for each in read_packs(tmp_path, workers=1)]
    assert texts == [clip.text for clip in clips]


def test_synthesised_clips_come_back_exactly(tmp_path: Path, tone: Callable[..., Samples]) -> None:
    clips = [
        Packed(tone(number, 400 + number), f"text {number}", "voice", "flite")
        for number in range(3)
    ]
    write_spoken(tmp_path / "synthetic.npz", clips)
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic.npz"]
    for before, after in zip(clips, read_spoken(tmp_path / "synthetic.npz"), strict=True):
        np.testing.assert_array_equal(before.pcm, after.pcm)
        assert (before.text, before.speaker, before.set) == (after.text, after.speaker, after.set)
