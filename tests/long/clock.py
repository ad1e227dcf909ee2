"""An hour in one stream: its times are exact to the sample at the end.

    python -m tests.long.clock --minutes 60

A clip of speech is heard near the beginning of the stream and, with as much of the same noise
before it, at the end, and other speech between: what is said of the second must be what is said of
the first, moved by the samples between them. The server has the stream as fast as it takes it. Each
format is tried, since each comes to the 16 kHz of the clock by another way. The exit status is 0
where all is exact.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

import numpy as np
import soxr

from stream_protocol.messages import Encoding, Final, SampleRate, Start
from tests.long.play import Heard, play
from tests.long.recordings import RATE, Samples, clips, stream_of
from tests.long.servers import serving

_PERIOD = 16 * RATE
"""Samples; what the voice activity detection repeats itself after."""
_BEFORE = 2 * _PERIOD
"""Samples of noise before each of the two clips: more than the detection remembers."""
_LONGEST = 12 * RATE

FORMATS: tuple[tuple[Encoding, SampleRate], ...] = (
    ("pcm_s16le", 16000), ("pcm_s16le", 44100), ("pcm_f32le", 48000), ("pcm_s16le", 24000),
    ("mulaw", 8000),
)  # fmt: skip


def encode(samples: Samples, encoding: Encoding, rate: int) -> bytes:
    """Return samples at 16 kHz as bytes of a format."""
    if rate != RATE:
        samples = soxr.resample(samples, RATE, rate)
    samples = np.clip(samples, -1, 1)
    if encoding == "pcm_f32le":
        return samples.astype("<f4").tobytes()
    if encoding == "mulaw":
        return _to_mulaw((samples * 32767).astype(np.int32))
    return (samples * 32767).astype("<i2").tobytes()


def _to_mulaw(samples: np.ndarray) -> bytes:
    """Encode as G.711 says (16-bit samples to 8-bit mu-law)."""
    sign = np.where(samples < 0, 0x80, 0)
    magnitude = np.minimum(np.abs(samples), 32_635) + 132
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    return (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8).tobytes()


def stream_with_two(minutes: float, seed: int) -> tuple[Samples, int]:
    """Return a stream, and the samples from its first clip to its second."""
    chance = np.random.default_rng(seed)
    clip = next(each for each in clips(seed) if 2 * RATE < len(each) <= _LONGEST)
    block = chance.normal(0, 3e-4, _BEFORE + _PERIOD).astype(np.float32)
    block[_BEFORE : _BEFORE + len(clip)] += clip
    # Whole periods: whatever the detection counts stands where it stood.
    between = max(len(block), int(minutes * 60 * RATE) // _PERIOD * _PERIOD - len(block))
    other = np.frombuffer(stream_of((between - len(block)) / RATE, seed + 1), "<i2") / 32767
    return np.concatenate([block, other.astype(np.float32), block]), between


def wrong_times(heard: Heard, between: int, samples: int) -> list[str]:
    """Return what is not exact."""
    problems = []
    if heard.samples != samples:
        problems.append(f"{heard.samples} samples were counted, {samples} were sent")
    first = [final for final in heard.finals if final.end <= _BEFORE + _PERIOD]
    second = [final for final in heard.finals if final.start >= between]
    if not first or len(first) != len(second):
        problems.append(f"{len(first)} finals of the first clip, {len(second)} of the second")
    for one, other in zip(first, second, strict=False):
        if times(other) != times(one, between):
            problems.append(f"{times(one, between)} was said to be {times(other)}")
    return problems


def times(final: Final, shift: int = 0) -> list[tuple[int, int]]:
    """Return start and end of a final and of its words, in samples."""
    words = [(word.start + shift, word.end + shift) for word in final.words or []]
    return [(final.start + shift, final.end + shift), *words]


async def run(arguments: argparse.Namespace) -> int:
    """Play a stream in each format; return 0 where all times are exact."""
    samples, between = stream_with_two(arguments.minutes, arguments.seed)
    formats = FORMATS[: arguments.formats]
    problems = []
    async with serving(1, ["--model", arguments.model]) as (server,):
        url = f"ws://127.0.0.1:{server.port}/v1/stream"
        for encoding, rate in formats:
            audio = encode(samples, encoding, rate)
            start = Start(encoding=encoding, sample_rate=rate, words=True, partial_interval_ms=0)
            began = time.monotonic()
            heard = await play(url, audio, start, piece=65_536)
            found = wrong_times(heard, between, len(samples))
            problems += found
            print(
                f"{encoding} at {rate}: {len(samples) / RATE / 60:.1f} minutes in "
                f"{time.monotonic() - began:.0f} s ({arguments.model}), "
                f"{len(heard.finals)} finals, {len(found)} wrong",
                *found,
                sep="\n  ",
                flush=True,
            )
    return min(len(problems), 1)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--formats", type=int, default=len(FORMATS), help="how many are tried")
    parser.add_argument("--model", default="fake")
    parser.add_argument("--seed", type=int, default=0)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
