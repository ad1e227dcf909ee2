"""What a listener sees of a stream: how long it takes and how often it changes. Pure.

Delays are counted from the moment at which the sample in question was spoken, so what a client
buffers and what the endpointing waits for is in them.

Two measures of instability, both over the words of the finals and pooled over segments; 0 is text
that only grows:

* **Unstable partial word ratio** (UPWR; Shangguan et al., "Analyzing the Quality and Stability of
  a Streaming End-to-End On-Device Speech Recognizer", Interspeech 2020, arXiv 2006.01416): words of
  a partial that the next text of the segment replaces or leaves out (alignment with the fewest
  edits), summed over all its partials.
* **Normalized erasure** (NE; Arivazhagan et al., "Re-translation versus Streaming for Simultaneous
  Translation", IWSLT 2020, arXiv 2004.03643): words that must be erased from the end of a partial
  before the next text can be reached by appending, summed over all its partials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from stream_client.load import Watch
from stream_protocol.messages import CLOCK_RATE, Final, Partial, ServerMessage

_FRAME = CLOCK_RATE // 50
"""Samples; to this the moment of speaking is known."""
_UNSPACED = ("zh",)
"""Languages without spaces, of which a character counts as a word."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A message and when it came."""

    at: float
    """Seconds from the moment at which the stream's first sample was spoken."""
    message: ServerMessage


@dataclass(frozen=True, slots=True)
class Track:
    """Delays and revisions of one stream. Delays in milliseconds, one for each segment."""

    first_partial_ms: tuple[float, ...]
    """From the start of speech to the first partial."""
    final_ms: tuple[float, ...]
    """From the end of speech to the final, the pause that proves it included."""
    finalise_ms: tuple[float, ...]
    """From ``speech_ended`` to the final: what the service takes once it knows."""
    partials: int
    words: int
    """Of the finals."""
    unstable: int
    """Words of partials that the next text replaced or left out."""
    erased: int
    """Words taken back from the end."""
    problems: tuple[str, ...]
    """Errors that the stream was told, and what was missing at its end."""


def follow(messages: Sequence[Timed], samples: int, language: str | None = None) -> Track:
    """Measure a stream.

    Args:
        messages: everything it was sent, in order.
        samples: its length.
        language: ISO 639-1, for what a word is.
    """
    watch = Watch()
    for position in range(_FRAME, samples + _FRAME, _FRAME):
        watch.sent(min(position, samples), min(position, samples) / CLOCK_RATE)
    texts: dict[int, list[list[str]]] = {}
    words = 0
    for timed in messages:
        message = timed.message
        watch.received(message, timed.at)
        if isinstance(message, Partial):
            seen = words_of(message.stable + message.tentative, language)
            texts.setdefault(message.segment, []).append(seen)
        elif isinstance(message, Final):
            seen = words_of(message.text, language)
            texts.setdefault(message.segment, []).append(seen)
            words += len(seen)
    steps = [pair for each in texts.values() for pair in zip(each, each[1:], strict=False)]
    result = watch.result
    missing = () if result.is_done else ("the stream was not told that it is done",)
    return Track(
        first_partial_ms=tuple(result.first_partial_ms),
        final_ms=tuple(result.final_ms),
        finalise_ms=tuple(result.finalise_ms),
        partials=sum(isinstance(timed.message, Partial) for timed in messages),
        words=words,
        unstable=sum(revised(before, after) for before, after in steps),
        erased=sum(erased(before, after) for before, after in steps),
        problems=(*result.problems, *missing),
    )


def words_of(text: str, language: str | None = None) -> list[str]:
    """Return the words of a text; of a language without spaces, its characters."""
    words = text.split()
    return list("".join(words)) if language in _UNSPACED else words


def revised(before: Sequence[str], after: Sequence[str]) -> int:
    """Count words that the next text replaces or leaves out."""
    edits = jiwer.process_words(" ".join(before), " ".join(after))
    return int(edits.substitutions + edits.deletions)


def erased(before: Sequence[str], after: Sequence[str]) -> int:
    """Count words behind the longest common beginning."""
    same = 0
    for one, other in zip(before, after, strict=False):
        if one != other:
            break
        same += 1
    return len(before) - same


def joined(messages: Sequence[Timed]) -> str:
    """Return the text of all finals."""
    texts = [each.message.text.strip() for each in messages if isinstance(each.message, Final)]
    return " ".join(text for text in texts if text)


__all__ = ["Timed", "Track", "erased", "follow", "joined", "revised", "words_of"]
