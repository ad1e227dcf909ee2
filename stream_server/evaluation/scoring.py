"""Texts against references: word and character error rates with their intervals. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import jiwer
import numpy as np
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

BY_CHARACTER = ("hi", "zh")
"""Languages whose headline is the character error rate, as is usual for them."""
_UNSPACED = ("zh",)
"""Languages that are written without spaces, so that those of a text mean nothing."""
_DRAWS = 1000
"""Of the bootstrap."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What was said and what was heard."""

    reference: str
    text: str
    language: str | None = None
    """ISO 639-1."""


@dataclass(frozen=True, slots=True)
class Rate:
    """An error rate pooled over clips, with its 95 % interval (bootstrap over clips)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Score:
    """Error rates of a set of clips."""

    metric: str
    """``cer`` where all is in a language of :data:`BY_CHARACTER`, else ``wer``: the headline."""
    word: Rate
    character: Rate
    words: int
    """Of the references."""

    @property
    def headline(self) -> Rate:
        """The rate that ``metric`` names."""
        return self.character if self.metric == "cer" else self.word


@lru_cache(maxsize=1)
def _english() -> Callable[[str], str]:
    # Building it reads a table of spellings.
    normal: Callable[[str], str] = EnglishTextNormalizer()
    return normal


def normaliser(language: str | None, spelled: bool = False) -> Callable[[str], str]:
    """Return Whisper's normaliser for a language: its English one, or its basic one.

    Args:
        language: ISO 639-1.
        spelled: keeps number words as they are: Whisper's English normaliser writes "one two" as
            "12", a single word, which suits read numbers and not digit strings.
    """
    if language == "en" and not spelled:
        return _english()
    # Whisper's own basic one also takes the vowel signs out of Hindi.
    normal: Callable[[str], str] = BasicTextNormalizer(preserve_marks=True)
    return normal


def interval(errors: Sequence[int], units: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of pooled errors over units, clips drawn anew.

    Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation",
    ICASSP 2004.
    """
    chance = np.random.default_rng(seed)
    drawn = chance.integers(0, len(errors), (_DRAWS, len(errors)))
    rates = np.asarray(errors)[drawn].sum(1) / np.maximum(np.asarray(units)[drawn].sum(1), 1)
    return float(np.quantile(rates, 0.025)), float(np.quantile(rates, 0.975))


def _rate(errors: Sequence[int], units: Sequence[int]) -> Rate:
    return Rate(sum(errors) / max(sum(units), 1), *interval(errors, units))


def score(pairs: Sequence[Pair], spelled: bool = False) -> Score:
    """Score texts, at least one; see :func:`normaliser` for ``spelled``."""
    word_errors, words, letter_errors, letters = [], [], [], []
    for pair in pairs:
        normal = normaliser(pair.language, spelled)
        reference, text = normal(pair.reference).strip(), normal(pair.text).strip()
        by_word = jiwer.process_words(reference, text)
        word_errors.append(by_word.substitutions + by_word.deletions + by_word.insertions)
        words.append(len(reference.split()))
        if pair.language in _UNSPACED:
            reference, text = "".join(reference.split()), "".join(text.split())
        by_letter = jiwer.process_characters(reference, text)
        letter_errors.append(by_letter.substitutions + by_letter.deletions + by_letter.insertions)
        letters.append(len(reference))
    return Score(
        metric="cer" if all(pair.language in BY_CHARACTER for pair in pairs) else "wer",
        word=_rate(word_errors, words),
        character=_rate(letter_errors, letters),
        words=sum(words),
    )


__all__ = ["BY_CHARACTER", "Pair", "Rate", "Score", "interval", "normaliser", "score"]
