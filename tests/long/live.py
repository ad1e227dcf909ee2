"""Streams at the pace of speech, compared with the same at full speed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.long.play import Heard, differing, play
from tests.long.recordings import RATE, stream_of

PIECE = 3200
"""Bytes that come at once at the pace of speech: 100 ms."""
_KINDS = 10
"""Different streams, each played as often as need be: the rest is the same for every one."""


def streams_of(seconds: float, seed: int, count: int) -> list[bytes]:
    """Return the audio of ``count`` streams."""
    kinds = [stream_of(seconds, seed + kind) for kind in range(min(count, _KINDS))]
    return [kinds[number % len(kinds)] for number in range(count)]


async def play_live(url: str, audio: bytes, delay: float) -> Heard:
    """Play a stream at the pace of speech, after ``delay`` seconds."""
    await asyncio.sleep(delay)
    return await play(url, audio, bytes_per_second=2 * RATE, piece=PIECE)


class Comparison:
    """What was heard of streams, beside what was heard of the same ones undisturbed.

    Args:
        wholes: undisturbed.
        heard: of the same streams, in the same order.
    """

    def __init__(self, wholes: Sequence[Heard], heard: Sequence[Heard]) -> None:
        self._pairs = list(zip(wholes, heard, strict=True))
        self._words = sum(len(whole.words) for whole in wholes)
        self._wrong = sum(differing(whole.words, each.words) for whole, each in self._pairs)
        self._in_place = sum(
            whole.places == each.places and whole.samples == each.samples
            for whole, each in self._pairs
        )

    @property
    def is_same(self) -> bool:
        """Whether no word, no place of a final and no count of samples differs."""
        return not self._wrong and self._in_place == len(self._pairs)

    def __str__(self) -> str:
        """The counts."""
        partials = sum(each.partials for _, each in self._pairs)
        corrected = sum(each.corrected for _, each in self._pairs)
        return (
            f"{self._words} words, {self._wrong} differ; "
            f"{self._in_place} have each final at its place; "
            f"{partials} partials, of whose stable words finals corrected {corrected}"
        )

    def print_differences(self) -> None:
        """Print each error, and each final that says something else."""
        for number, (whole, each) in enumerate(self._pairs):
            for error in each.errors:
                print(f"  stream {number}: {error}")
            for one, other in zip(whole.finals, each.finals, strict=False):
                if one.text != other.text:
                    print(f"  stream {number}, {one.start}: {one.text!r} became {other.text!r}")
