"""Real speech to stream: the recordings beside the repository, or the bundled clip without them."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import soundfile

from stream_server.audio import decode_file
from tests.long.speech import DIGITS, SPEECH

RATE = 16_000
Samples = npt.NDArray[np.float32]

_SETS = (
    "librispeech_untranscribed", "ljspeech", "philipp", "kathleen", "speechocean762",
    "commonvoice_few", "robotutor",
)  # fmt: skip


def clips(seed: int) -> Iterator[Samples]:
    """Yield recordings of many speakers in a random order, for ever."""
    chance = random.Random(seed)
    folders = [SPEECH / name for name in _SETS]
    files = [sorted(folder.glob("*.opus")) for folder in folders]
    files = [each for each in files if each]
    bundled = decode_file(DIGITS.read_bytes())
    while True:
        if not files:
            yield bundled
            continue
        # Sets are drawn alike, however many files they have.
        data = chance.choice(chance.choice(files)).read_bytes()
        yield soundfile.read(io.BytesIO(data), dtype="float32")[0]


def stream_of(seconds: float, seed: int) -> bytes:
    """Return so much speech as pcm_s16le, with pauses between the recordings and faint noise."""
    chance = np.random.default_rng(seed)
    parts: list[Samples] = []
    total = 0
    for clip in clips(seed):
        pause = np.zeros(int(chance.uniform(0.1, 1.8) * RATE), np.float32)
        parts += [pause, clip]
        total += len(pause) + len(clip)
        if total >= seconds * RATE:
            break
    whole = np.concatenate(parts)[: int(seconds * RATE)]
    noise = chance.normal(0, 2e-4, len(whole)).astype(np.float32)
    return to_pcm16(whole + noise)


def to_pcm16(samples: Samples) -> bytes:
    """Return samples in [-1, 1] as pcm_s16le."""
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
