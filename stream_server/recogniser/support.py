"""How far the audio supports a text, and what is dropped where it does not.

A decoder that writes a text as a whole writes one for a noise too. The CTC frames beside it know
better: aligned to them, a word that was said lies on frames that expect its tokens, and one that
was made up lies on frames that expect something else or nothing.

The support of a token is the geometric mean of its probability over its frames, blanks left out
(``alignment.TokenSpan.score``); of a word or a text, the geometric mean over its tokens. What
clatters can be a word to CTC, so of a lone word the decoder's causal half is asked too, and phones
where they are heard (``phones``): a clatter has none. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stream_server.recogniser.alignment import TokenSpan

_BRIEF = 3
"""Words of a brief text."""
_POWER = 8
"""What the causal half gives a token counts so often: it is sure of digits and less so of noise."""
_AGAIN = 2
"""The same beside phones, which know more of noise."""
_FLOOR = 1e-9
"""Under the smallest support that matters; keeps the logarithm finite."""


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """Support under which text is dropped; 0 drops nothing.

    What a checkpoint sets follows from measuring it (training/LOG.md). The embedded network of
    2026-11-24, with a language model: digits of an unknown speaker have a support of 0.81 and
    more, held-out sentences of 0.44 and more, children's and strangers' of 0.13 and more (a tenth
    of them under 0.22); noise in which words were heard 0.01 to 0.95, half of it under 0.36.
    """

    word: float = 0.1
    """Of a word: it is left out."""
    text: float = 0.3
    """Of the whole text: nothing was said."""
    brief: float = 0.0
    """The same for a text of at most three words, which noise is most often taken for."""
    lone: float = 0.0
    """The same for one word, in the place of ``brief``, of its support times how likely the causal
    half finds it; 0 asks no more than of other brief texts."""
    heard: float = 0.0
    """Of a brief text, in the place of both, where phones are heard: nats a phone by which they are
    likelier than silence, times the square of what the causal half gives a token; 0 asks neither.
    """


def support(spans: Sequence[TokenSpan]) -> float:
    """Return how far the audio supports tokens, 0 to 1; 1 for none."""
    scores = [max(span.score, _FLOOR) for span in spans]
    return float(np.exp(np.log(scores).mean())) if scores else 1.0


def confidence(probability: float, supported: float) -> float:
    """Return the confidence of a word, 0 to 1: the geometric mean of what both halves think.

    It tells right words from wrong ones better than either alone: on 60 digits of an unknown
    speaker the area under the curve is 0.79, of the decoder's probability 0.74.
    """
    return float(np.sqrt(probability * supported))


def keep(
    words: Sequence[Sequence[int]],
    spans: Sequence[TokenSpan] | None,
    guard: GuardConfig,
    read: Callable[[], float] = lambda: 1.0,
    sounds: Callable[[], float | None] = lambda: None,
) -> list[bool]:
    """Say which words of a text stay.

    Args:
        words: for each word, the places of its tokens.
        spans: of every token; none where the text does not fit into the audio at all.
        guard: the thresholds.
        read: asks the causal half what it gives a token of the text, 0 to 1. That is a pass of the
            decoder, so it is called where the answer counts alone: of brief texts, by a guard with
            ``heard``, and of one word, by one with ``lone``.
        sounds: asks by how many nats a phone phones hear the text rather than nothing; none where
            no phones are heard. Called of brief texts alone, by a guard with ``heard``.
    """
    if spans is None:
        return [not (guard.word or guard.text or guard.brief)] * len(words)
    whole = support([spans[place] for word in words for place in word])
    asked = guard.heard and 0 < len(words) <= _BRIEF
    if asked and (heard := sounds()) is not None:
        is_noise = heard * read() ** _AGAIN < guard.heard
    elif guard.lone and len(words) == 1:
        is_noise = whole * read() ** _POWER < guard.lone
    else:
        is_noise = len(words) <= _BRIEF and whole < guard.brief
    if is_noise or whole < guard.text:
        return [False] * len(words)
    return [support([spans[place] for place in word]) >= guard.word for word in words]


__all__ = ["GuardConfig", "confidence", "keep", "support"]
