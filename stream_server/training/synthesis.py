"""Cheap synthetic speech from espeak-ng and flite, for words that the recordings lack.

Both programs come from the system (Debian packages ``espeak-ng`` and ``flite``). Synthetic speech
teaches spelling and language; real speech decides, and is weighted so in the recipes.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile

from stream_server.training.pack import RATE, Packed, Samples

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "oh")
_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-us-nyc", "en-029")
_VARIANTS = (
    *("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
    *("steph", "linda", "adam", "ed", "max"),
)
_FLITE = ("slt", "rms", "awb", "kal16")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Something to say and who says it."""

    text: str
    command: tuple[str, ...]
    """Program and options; the output file and the text follow."""
    set: str


def _drawn(
    chance: random.Random,
    texts: Mapping[str, Sequence[str]],
    weights: Mapping[str, float],
    digits: float,
) -> Iterator[str]:
    """Draw text after text without an end, each when it is asked for."""
    names = [name for name in texts if weights.get(name, 0) > 0]
    shares = [weights[name] for name in names]
    while True:
        words = chance.choice(texts[chance.choices(names, shares)[0]]).split()
        if chance.random() < digits:
            words = chance.choices(DIGITS, k=chance.randint(1, 10))
        elif chance.random() < 0.4 and len(words) > 3:
            start = chance.randrange(len(words) - 2)
            words = words[start : start + chance.randint(2, 7)]
        yield " ".join(words[:38])


def draw_texts(
    texts: Mapping[str, Sequence[str]],
    weights: Mapping[str, float],
    count: int,
    digits: float,
    seed: int,
) -> list[str]:
    """Draw what is said: whole sentences, short pieces of them, and digit strings.

    Args:
        texts: sentences by the name of their source.
        weights: of the sources; those of no weight are left out.
        count: texts.
        digits: share of them that are digit strings.
        seed: the same one draws the same texts.
    """
    return list(islice(_drawn(random.Random(seed), texts, weights, digits), count))


def prompts(
    texts: Mapping[str, Sequence[str]],
    weights: Mapping[str, float],
    count: int,
    digits: float,
    seed: int,
) -> list[Prompt]:
    """Draw prompts for espeak-ng and flite; for the arguments see :func:`draw_texts`."""
    chance = random.Random(seed)
    drawn = []
    for text in islice(_drawn(chance, texts, weights, digits), count):
        if chance.random() < 0.6:
            voice = chance.choice(_FLITE)
            stretch = f"duration_stretch={chance.uniform(0.8, 1.25):.2f}"
            pitch = f"int_f0_target_mean={chance.uniform(80, 210):.0f}"
            options = ["-voice", voice, "--setf", stretch]
            if voice == "kal16":
                options += ["--setf", pitch]
            drawn.append(Prompt(text, ("flite", *options), "flite"))
        else:
            name = f"{chance.choice(_ACCENTS)}+{chance.choice(_VARIANTS)}"
            options = ["-v", name, "-p", str(chance.randint(20, 80))]
            options += ["-s", str(chance.randint(130, 210))]
            drawn.append(Prompt(text, ("espeak-ng", *options), "espeak"))
    return drawn


def digit_strings(count: int, seed: int) -> list[str]:
    """Draw strings of digits as they are said, for a language model: prose has next to none."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(DIGITS, k=chance.randint(1, 10))) for _ in range(count)]


def resample(pcm: Samples, rate: int) -> Samples:
    """Bring audio to RATE by cutting its spectrum: exact enough for synthetic speech."""
    if rate == RATE:
        return pcm
    size = int(len(pcm) * RATE / rate)
    spectrum = np.fft.rfft(pcm.astype(np.float64))
    wanted = size // 2 + 1
    spectrum = np.pad(spectrum[:wanted], (0, max(0, wanted - len(spectrum))))
    out = np.fft.irfft(spectrum, size) * (size / len(pcm))
    return np.clip(out, -32768, 32767).astype(np.int16)


def speak(prompt: Prompt) -> Packed | None:
    """Run the synthesiser; none where it fails or says next to nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        if prompt.command[0] == "flite":
            command = [*prompt.command, "-t", prompt.text, "-o", str(path)]
        else:
            command = [*prompt.command, "-w", str(path), prompt.text]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0 or not path.exists():
            return None
        pcm, rate = soundfile.read(path, dtype="int16")
    pcm = resample(pcm, rate)
    loud = np.flatnonzero(np.abs(pcm) > 300)
    if len(loud) < RATE // 10:
        return None
    pcm = np.ascontiguousarray(pcm[max(0, loud[0] - 800) : loud[-1] + 800])
    return Packed(pcm, prompt.text, " ".join(prompt.command[:3]), prompt.set)


def speak_all(drawn: Sequence[Prompt], workers: int) -> list[Packed]:
    """Speak every prompt in ``workers`` processes."""
    with ProcessPoolExecutor(workers) as pool:
        return [packed for packed in pool.map(speak, drawn, chunksize=32) if packed is not None]


__all__ = [
    "DIGITS",
    "Prompt",
    "digit_strings",
    "draw_texts",
    "prompts",
    "resample",
    "speak",
    "speak_all",
]
