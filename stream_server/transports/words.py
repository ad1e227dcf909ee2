"""What several APIs need to say of words: without punctuation, in seconds, of a partial.

Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stream_protocol.messages import CLOCK_RATE, Partial, Word
from stream_server.recogniser.interface import HypothesisWord
from stream_server.session.reports import spread

_EDGES = re.compile(r"(?<!\w)[^\w\s]+|[^\w\s]+(?!\w)")
"""Punctuation at the edge of a word; what is inside (don't, 3.14, co-op) belongs to it."""


def bare(text: str) -> str:
    """Return ``text`` as it is spoken: lower case, no punctuation round words."""
    return " ".join(_EDGES.sub(" ", text).lower().split())


def seconds(samples: int) -> float:
    """Return a position or a length in seconds, to the millisecond."""
    return round(samples / CLOCK_RATE, 3)


def milliseconds(samples: int) -> int:
    """Return a position or a length in milliseconds."""
    return samples * 1000 // CLOCK_RATE


def partial_words(partial: Partial) -> list[Word]:
    """Return the words of a partial, which has neither their times nor their confidences.

    The times share out the partial's audio by length of the words. The confidence says whether a
    word may still change: 1 where it is stable, 0 where it is tentative.
    """
    text = partial.stable + partial.tentative
    words = [
        HypothesisWord(
            text=found[0],
            confidence=1.0 if found.end() <= len(partial.stable) else 0.0,
            start=None,
            end=None,
        )
        for found in re.finditer(r"\S+", text)
    ]
    return spread(words, partial.start, partial.end)


def mean_confidence(words: Sequence[Word]) -> float:
    """Return the mean confidence of ``words``; 0 of none."""
    return sum(word.confidence for word in words) / len(words) if words else 0.0


__all__ = ["bare", "mean_confidence", "milliseconds", "partial_words", "seconds"]
