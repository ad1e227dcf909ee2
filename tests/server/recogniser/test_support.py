"""Words stay where CTC frames expect them, and go where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from stream_server.recogniser.alignment import TokenSpan, align
from stream_server.recogniser.support import GuardConfig, confidence, keep, support

BLANK = 0
GUARD = GuardConfig(word=0.1, text=0.3)


def frames(*expected: dict[int, float]) -> np.ndarray:
    """Log-probabilities of frames that expect these tokens; the rest is shared by the others."""
    rows = np.empty((len(expected), 8))
    for row, tokens in zip(rows, expected, strict=True):
        row[:] = (1 - sum(tokens.values())) / (8 - len(tokens))
        for token, probability in tokens.items():
            row[token] = probability
    return np.log(rows).astype(np.float32)


NOTHING = {BLANK: 0.99}


def test_a_word_that_was_said_stays_and_one_made_up_goes() -> None:
    logs = frames(NOTHING, {3: 0.9}, NOTHING, {4: 0.8}, NOTHING, NOTHING)
    spans = align(logs, [3, 4, 5])
    assert spans is not None
    assert keep([[0], [1], [2]], spans, GuardConfig(word=0.1, text=0)) == [True, True, False]


def test_one_token_made_up_costs_a_long_word_little() -> None:
    spans = [TokenSpan(0, 1, 0.9), TokenSpan(1, 2, 0.9), TokenSpan(2, 3, 0.01)]
    assert support(spans) == pytest.approx((0.9 * 0.9 * 0.01) ** (1 / 3))
    assert keep([[0, 1, 2]], spans, GuardConfig(word=0.1, text=0)) == [True]
    assert keep([[0], [1, 2]], spans, GuardConfig(word=0.1, text=0)) == [True, False]


def test_a_text_without_support_goes_as_a_whole() -> None:
    spans = [TokenSpan(0, 1, 0.9), TokenSpan(1, 2, 0.02), TokenSpan(2, 3, 0.02)]
    assert keep([[0], [1], [2]], spans, GUARD) == [False, False, False]
    assert keep([[0], [1], [2]], spans, GuardConfig(word=0.1, text=0)) == [True, False, False]
    better = [TokenSpan(0, 1, 0.9), TokenSpan(1, 2, 0.5), TokenSpan(2, 3, 0.2)]
    assert keep([[0], [1], [2]], better, GUARD) == [True, True, True]


def test_a_brief_text_needs_more_support_than_a_long_one() -> None:
    guard = GuardConfig(word=0, text=0.3, brief=0.6)

    def kept(words: int, probability: float) -> bool:
        spans = [TokenSpan(place, place + 1, probability) for place in range(words)]
        stays = keep([[place] for place in range(words)], spans, guard)
        assert len(set(stays)) == 1
        return stays[0]

    assert [kept(words, 0.5) for words in (1, 3, 4)] == [False, False, True]
    assert [kept(words, 0.65) for words in (1, 3, 4)] == [True, True, True]
    assert [kept(words, 0.2) for words in (1, 3, 4)] == [False, False, False]
    assert keep([[0]], None, GuardConfig(0, 0, 0.6)) == [False]


def test_of_a_lone_word_the_causal_half_is_asked_too() -> None:
    guard = GuardConfig(word=0, text=0.3, brief=0.85, lone=0.2)

    def kept(words: int, read: float) -> list[bool]:
        spans = [TokenSpan(place, place + 1, 0.8) for place in range(words)]
        return keep([[place] for place in range(words)], spans, guard, lambda: read)

    assert kept(1, 0.9) == [True]  # 0.8 * 0.9**8 = 0.34
    assert kept(1, 0.8) == [False]  # 0.13
    assert kept(2, 1.0) == [False] * 2, "of two the support alone counts"
    assert kept(4, 0.01) == [True] * 4


@pytest.mark.parametrize(
    ("words", "lone", "fits", "asked"),
    [
        (1, 0.2, True, 1),
        (0, 0.2, True, 0),
        (2, 0.2, True, 0),
        (1, 0.0, True, 0),
        (1, 0.2, False, 0),
    ],
)
def test_the_causal_half_is_asked_where_its_answer_counts(
    words: int, lone: float, fits: bool, asked: int
) -> None:
    calls = []

    def read() -> float:
        calls.append(words)
        return 1.0

    spans = [TokenSpan(place, place + 1, 0.8) for place in range(words)]
    guard = GuardConfig(word=0.1, text=0.3, brief=0.5, lone=lone)
    keep([[place] for place in range(words)], spans if fits else None, guard, read)
    assert len(calls) == asked


def test_a_text_that_does_not_fit_into_the_audio_goes() -> None:
    assert align(frames(NOTHING), [3, 4]) is None
    assert keep([[0], [1]], None, GUARD) == [False, False]


def test_without_thresholds_everything_stays() -> None:
    off = GuardConfig(0, 0)
    assert keep([[0], [1]], None, off) == [True, True]
    assert keep([[0]], [TokenSpan(0, 1, 0.0)], off) == [True]
    assert keep([], [], GUARD) == []


def test_support_is_finite_and_between_none_and_all() -> None:
    assert support([]) == 1
    assert 0 < support([TokenSpan(0, 1, 0.0)]) < 1e-6
    assert support([TokenSpan(0, 1, 1.0)]) == 1


def test_confidence_is_between_both() -> None:
    assert confidence(0.9, 0.4) == pytest.approx(0.6)
    assert confidence(1.0, 1.0) == 1
    assert confidence(1.0, 0.0) == 0


@pytest.mark.parametrize(
    ("words", "sounds", "read", "stays"),
    [
        (1, 0.5, 1.0, True),
        (1, 0.5, 0.7, False),  # 0.5 * 0.7**2 = 0.245
        (3, 0.2, 1.0, False),
        (3, -1.0, 0.1, False),
        (4, -1.0, 0.1, True),
    ],
)
def test_a_brief_text_must_sound_likelier_than_silence(
    words: int, sounds: float, read: float, stays: bool
) -> None:
    guard = GuardConfig(word=0, text=0, brief=0.9, lone=0.9, heard=0.3)
    spans = [TokenSpan(place, place + 1, 0.5) for place in range(words)]
    places = [[place] for place in range(words)]
    assert keep(places, spans, guard, lambda: read, lambda: sounds) == [stays] * words


def test_where_no_phones_are_heard_brief_texts_are_judged_without() -> None:
    guard = GuardConfig(word=0, text=0, brief=0.6, lone=0.2, heard=0.3)
    spans = [TokenSpan(0, 1, 0.8), TokenSpan(1, 2, 0.8)]
    assert keep([[0]], spans[:1], guard, lambda: 0.9) == [True]
    assert keep([[0]], spans[:1], guard, lambda: 0.5) == [False]
    assert keep([[0], [1]], spans, guard, lambda: 0.1) == [True, True]


def test_phones_do_not_make_up_for_a_text_without_support() -> None:
    guard = GuardConfig(word=0, text=0.3, heard=0.3)
    assert keep([[0]], [TokenSpan(0, 1, 0.1)], guard, lambda: 1.0, lambda: 9.0) == [False]
    assert keep([], [], guard, lambda: 1.0, lambda: 9.0) == []
