"""A recogniser without a model: deterministic, for tests, demonstrations and load runs.

Never the default. Its words follow from the loudness of the audio, one for each 300 ms of sound,
so the same audio gives the same text, more audio gives the same text and more, and silence gives
none. It denoises as the real one does, on the surface: the canvas begins as noise (or as the
draft) and more of it is right after each step. It takes next to no time, so that a load run
measures the server around it.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stream_server.recogniser.interface import (
    SAMPLE_RATE,
    Hypothesis,
    HypothesisWord,
    Pcm,
    RecogniserInfo,
    Row,
    Utterance,
)

WORD_SAMPLES = SAMPLE_RATE * 300 // 1000
"""Samples of sound that make a word."""
_THIRD = WORD_SAMPLES // 3
"""Samples over which loudness is taken; three loudnesses make a word."""
_STRIDE = 13
"""Every which sample is listened to. A prime, so that no tone of a round pitch is missed."""
SILENCE = 0.003
"""Root mean square under which audio is silent, -50 dB."""

# fmt: off
VOCABULARY = (
    "a", "about", "after", "again", "all", "and", "any", "because", "before", "boat", "bread",
    "clear", "close", "come", "could", "day", "door", "down", "early", "east", "every", "far",
    "find", "fire", "first", "from", "garden", "give", "glass", "good", "green", "hand", "here",
    "house", "keep", "late", "leave", "light", "long", "make", "many", "morning", "never", "new",
    "night", "north", "old", "only", "open", "other", "over", "paper", "people", "quiet", "rain",
    "river", "road", "said", "sea", "seven", "small", "snow", "some", "south", "stone", "take",
    "the", "there", "three", "time", "train", "tree", "under", "very", "voice", "walk", "water",
    "west", "white", "wind", "winter", "with", "word", "work", "year",
)
# fmt: on
"""Token ``i`` is the word ``VOCABULARY[i]``."""

FAKE_INFO = RecogniserInfo(
    name="fake",
    languages=("en",),
    max_samples=40 * SAMPLE_RATE,
    max_rows=32,
    default_steps=8,
)


@dataclass(slots=True, eq=False)
class FakeRow:
    """An utterance being decoded."""

    utterance: Utterance
    words: tuple[HypothesisWord, ...]
    answer: tuple[int, ...]
    """The tokens that the last step shows."""
    canvas: list[int]
    wrong: list[int]
    """Places of the canvas that are not right yet, in the order in which they become so."""
    steps: int
    """Steps that this row takes."""
    step: int = 0


@dataclass(slots=True)
class FakeRecogniser:
    """Turns loudness into words; see the head of this file.

    Args:
        info: what it says of itself; its ``max_rows`` is enforced.
        step_seconds: seconds that each step takes, whatever the rows, to imitate load.
    """

    info: RecogniserInfo = FAKE_INFO
    step_seconds: float = 0.0
    _live: set[int] = field(default_factory=set, init=False, repr=False)

    @property
    def live_rows(self) -> int:
        """Rows that were started and not released."""
        return len(self._live)

    def warm_up(self) -> None:
        """There is nothing to warm."""

    def start(self, utterances: Sequence[Utterance]) -> Sequence[FakeRow]:
        """Make a row of each utterance."""
        rows = [_start(utterance) for utterance in utterances]
        self._live.update(id(row) for row in rows)
        return rows

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        """Put a share of the wrong tokens right in each row."""
        if len(rows) > self.info.max_rows:
            raise ValueError(f"{len(rows)} rows in one step; at most {self.info.max_rows}")
        if self.step_seconds:
            time.sleep(self.step_seconds)
        return [self._step(row) for row in rows]

    def release(self, rows: Sequence[Row]) -> None:
        """Forget rows; a second time does no harm."""
        self._live.difference_update(id(row) for row in rows)

    def _step(self, row: Row) -> Hypothesis:
        if not isinstance(row, FakeRow) or id(row) not in self._live:
            raise ValueError("this row was not started here, or has been released")
        if row.step >= row.steps:
            raise ValueError("this row is finished")
        row.step += 1
        is_final = row.step == row.steps
        share = len(row.wrong) if is_final else len(row.wrong) // (row.steps - row.step + 1)
        for place in row.wrong[:share]:
            row.canvas[place] = row.answer[place]
        del row.wrong[:share]
        return _hypothesis(row, is_final)


def _start(utterance: Utterance) -> FakeRow:
    answer, words = _listen(utterance.pcm)
    noise = random.Random(utterance.seed)
    canvas = list(utterance.draft[: len(answer)])
    canvas += noise.choices(range(len(VOCABULARY)), k=len(answer) - len(canvas))
    wrong = [place for place, token in enumerate(answer) if canvas[place] != token]
    noise.shuffle(wrong)
    # As with the real one, a good draft saves steps: none at all is wrong, one step proves it.
    share = len(wrong) / max(len(answer), 1)
    drafted = max(1, round(utterance.steps * share))
    steps = drafted if utterance.draft or not answer else max(1, utterance.steps)
    return FakeRow(utterance, words, answer, canvas, wrong, steps)


def _listen(pcm: Pcm) -> tuple[tuple[int, ...], tuple[HypothesisWord, ...]]:
    """Return the tokens and the words; less than a third of a word at the end is not one yet."""
    thirds = pcm[: len(pcm) // _THIRD * _THIRD].reshape(-1, _THIRD)[:, ::_STRIDE]
    power = np.square(thirds, dtype=np.float64).mean(axis=1)
    # What is not a number is silence.
    power[~np.isfinite(power)] = 0.0
    decibels = np.clip(10.0 * np.log10(power + 1e-9), -100.0, 100.0)
    levels = np.rint(decibels).astype(np.int8).tobytes()
    loudness: list[float] = power.tolist()
    tokens: list[int] = []
    words: list[HypothesisWord] = []
    for first in range(0, len(loudness), 3):
        heard = loudness[first : first + 3]
        if sum(heard) <= SILENCE * SILENCE * len(heard):
            continue
        code = zlib.crc32(levels[first : first + 3])
        token = code % len(VOCABULARY)
        start = first * _THIRD
        words.append(
            HypothesisWord(
                text=f" {VOCABULARY[token]}" if words else VOCABULARY[token],
                confidence=0.7 + 0.29 * (code >> 8 & 0xFF) / 0xFF,
                start=start,
                end=min(start + WORD_SAMPLES, len(pcm)),
            )
        )
        tokens.append(token)
    return tuple(tokens), tuple(words)


def _hypothesis(row: FakeRow, is_final: bool) -> Hypothesis:
    is_traced = row.utterance.trace
    confidences = [
        word.confidence if row.canvas[place] == row.answer[place] else 0.1
        for place, word in enumerate(row.words)
    ]
    words = tuple(
        HypothesisWord(
            text=f" {VOCABULARY[token]}" if place else VOCABULARY[token],
            confidence=confidences[place],
            start=row.words[place].start,
            end=row.words[place].end,
        )
        for place, token in enumerate(row.canvas)
        if is_final or is_traced
    )
    return Hypothesis(
        tokens=tuple(row.canvas),
        confidences=tuple(confidences),
        words=words,
        step=row.step,
        is_final=is_final,
        language=row.utterance.language or "en",
        canvas=" ".join(VOCABULARY[token] for token in row.canvas) if is_traced else None,
    )


__all__ = [
    "FAKE_INFO",
    "SILENCE",
    "VOCABULARY",
    "WORD_SAMPLES",
    "FakeRecogniser",
    "FakeRow",
]
