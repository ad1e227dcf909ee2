"""Prompts are drawn as asked; speech is trimmed, and at the one sample rate."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stream_server.training.pack import RATE, Samples
from stream_server.training.synthesis import (
    Prompt,
    digit_strings,
    draw_texts,
    prompts,
    resample,
    speak,
    speak_all,
)

SENTENCES = ["the quick brown fox jumps over the lazy dog", "yes", "one " * 60]
TEXTS = {"text": SENTENCES}
ONE = {"text": SENTENCES[:1]}
EVENLY = {"text": 1.0}
DIGITS = {*["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "oh"]}
PROGRAMS = {"espeak-ng": "espeak", "flite": "flite"}


def tone(hertz: float, rate: int, seconds: float = 1.0) -> Samples:
    t = np.arange(int(seconds * rate)) / rate
    return (8000 * np.sin(2 * np.pi * hertz * t)).astype(np.int16)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A synthesiser that says what lies in speech.wav, or fails if nothing does."""
    path = tmp_path / "stub"
    path.write_text(f'#!/bin/sh\nexec cp "{tmp_path}/speech.wav" "$2"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def say(program: Path, pcm: Samples, rate: int = RATE) -> Prompt:
    soundfile.write(program.with_name("speech.wav"), pcm, rate, subtype="PCM_16")
    return Prompt("hello there", (str(program),), "stub")


def test_prompts_are_drawn_from_the_sentences() -> None:
    drawn = prompts(TEXTS, EVENLY, 300, digits=0.0, seed=1)
    assert len(drawn) == 300
    for prompt in drawn:
        assert any(prompt.text in sentence for sentence in SENTENCES)
        assert 1 <= len(prompt.text.split()) <= 38
    texts = {prompt.text for prompt in drawn}
    assert "yes" in texts
    assert SENTENCES[0] in texts
    assert len([text for text in texts if text in SENTENCES[0] and text != SENTENCES[0]]) > 5


def test_texts_alone_are_drawn_as_those_of_prompts_are() -> None:
    drawn = draw_texts(TEXTS, EVENLY, 300, 0.1, seed=1)
    assert len(drawn) == 300
    assert all(set(text.split()) <= DIGITS or text in " ".join(SENTENCES) for text in drawn)
    assert {"yes", SENTENCES[0]} <= set(drawn)
    assert draw_texts(TEXTS, EVENLY, 300, 0.1, seed=1) == drawn
    assert draw_texts(TEXTS, EVENLY, 300, 0.1, seed=2) != drawn


def test_texts_are_drawn_by_their_weights() -> None:
    found = prompts({"a": ["ay"], "b": ["bee"], "c": ["sea"]}, {"a": 3.0, "b": 1.0}, 400, 0.0, 1)
    counts = {text: [prompt.text for prompt in found].count(text) for text in ("ay", "bee", "sea")}
    assert counts["sea"] == 0
    assert 260 < counts["ay"] < 340


def test_digits_are_drawn_as_often_as_asked() -> None:
    drawn = prompts(ONE, EVENLY, 1000, digits=0.3, seed=1)
    strings = [prompt.text.split() for prompt in drawn if set(prompt.text.split()) <= DIGITS]
    assert 250 < len(strings) < 350
    assert {len(words) for words in strings} == set(range(1, 11))
    assert {word for words in strings for word in words} == DIGITS


def test_strings_of_digits_are_of_one_to_ten() -> None:
    lines = digit_strings(400, seed=1)
    assert {len(line.split()) for line in lines} == set(range(1, 11))
    assert {word for line in lines for word in line.split()} == DIGITS
    assert lines == digit_strings(400, seed=1)


def test_the_same_seed_draws_the_same_prompts() -> None:
    assert prompts(TEXTS, EVENLY, 20, 0.1, seed=3) == prompts(TEXTS, EVENLY, 20, 0.1, seed=3)
    assert prompts(TEXTS, EVENLY, 20, 0.1, seed=3) != prompts(TEXTS, EVENLY, 20, 0.1, seed=4)


def test_both_programs_and_many_voices_speak() -> None:
    drawn = prompts(TEXTS, EVENLY, 400, 0.1, seed=1)
    assert {prompt.command[0]: prompt.set for prompt in drawn} == PROGRAMS
    assert len({prompt.command[2] for prompt in drawn}) > 30


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100])
def test_resampling_keeps_pitch_and_level(rate: int) -> None:
    out = resample(tone(1000, rate), rate)
    assert out.dtype == np.int16
    assert abs(len(out) - RATE) <= 1
    spectrum = np.abs(np.fft.rfft(out.astype(float)))
    assert int(spectrum.argmax()) == pytest.approx(1000, abs=2)
    assert np.abs(out).max() == pytest.approx(8000, rel=0.05)


def test_what_lies_above_the_new_band_is_gone() -> None:
    assert np.abs(resample(tone(10_000, 44_100), 44_100)).max() < 100


def test_speech_is_trimmed_and_named(program: Path) -> None:
    quiet = np.zeros(RATE, np.int16)
    packed = speak(say(program, np.concatenate([quiet, tone(500, RATE), quiet])))
    assert packed is not None
    assert (packed.text, packed.set, packed.speaker) == ("hello there", "stub", str(program))
    assert len(packed.pcm) == pytest.approx(RATE + 1600, abs=20)
    assert packed.pcm.flags.c_contiguous


def test_speech_of_another_rate_is_resampled(program: Path) -> None:
    packed = speak(say(program, tone(500, 22_050), 22_050))
    assert packed is not None
    assert len(packed.pcm) == pytest.approx(RATE, abs=100)


def test_next_to_nothing_is_nothing(program: Path) -> None:
    assert speak(say(program, np.zeros(RATE, np.int16))) is None
    assert speak(say(program, tone(500, RATE, 0.02))) is None


def test_a_program_that_fails_says_nothing(program: Path) -> None:
    assert speak(Prompt("hello", (str(program),), "stub")) is None
    assert speak(Prompt("hello", ("true",), "stub")) is None


def test_a_program_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, voices in PROGRAMS.items():
        with pytest.raises(FileNotFoundError, match=name):
            speak(Prompt("hello", (name, "-v", "en"), voices))


def test_all_that_is_said_comes_in_order(program: Path) -> None:
    good = say(program, tone(500, RATE))
    bad = Prompt("unsaid", ("false",), "stub")
    wanted = [Prompt("one", good.command, "stub"), bad, Prompt("two", good.command, "stub")]
    assert [packed.text for packed in speak_all(wanted, workers=2)] == ["one", "two"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_real_programs_speak(name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    drawn = prompts(ONE, EVENLY, 30, 0.0, seed=1)
    (prompt, *_) = [each for each in drawn if each.command[0] == name]
    packed = speak(Prompt("seven", prompt.command, prompt.set))
    assert packed is not None
    assert 0.2 * RATE < len(packed.pcm) < 2 * RATE
    assert np.abs(packed.pcm).max() > 1000
