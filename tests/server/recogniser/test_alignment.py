"""Viterbi finds the best path there is: every path is tried beside it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stream_server.recogniser.alignment import DenseFrames, TokenSpan, align, greedy

BLANK = 0
Logs = npt.NDArray[np.float32]


def collapse(path: tuple[int, ...]) -> list[int]:
    """What a CTC path says."""
    return [token for token, _ in itertools.groupby(path) if token != BLANK]


def scores(seed: int, frames: int, vocabulary: int, sharpness: float = 2.0) -> Logs:
    values = np.random.default_rng(seed).normal(0, sharpness, (frames, vocabulary))
    return (values - np.log(np.exp(values).sum(axis=1, keepdims=True))).astype(np.float32)


def best_path(logs: Logs, tokens: list[int]) -> tuple[int, ...] | None:
    """The best of all paths that say ``tokens``."""
    frames, vocabulary = logs.shape
    paths = itertools.product(range(vocabulary), repeat=frames)
    fitting = [path for path in paths if collapse(path) == tokens]
    return max(fitting, key=lambda path: path_score(logs, path), default=None)


def path_score(logs: Logs, path: tuple[int, ...]) -> float:
    return math.fsum(float(logs[frame, token]) for frame, token in enumerate(path))


def spans_of(logs: Logs, path: tuple[int, ...]) -> list[TokenSpan]:
    """The spans of a path."""
    spans, frame = [], 0
    for token, group in itertools.groupby(path):
        count = len(list(group))
        if token != BLANK:
            mean = float(np.mean([float(logs[at, token]) for at in range(frame, frame + count)]))
            spans.append(TokenSpan(frame, frame + count, math.exp(mean)))
        frame += count
    return spans


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    frames=st.integers(1, 6),
    tokens=st.lists(st.integers(1, 2), min_size=1, max_size=4),
)
def test_the_path_is_the_best_of_all(seed: int, frames: int, tokens: list[int]) -> None:
    logs = scores(seed, frames, 3)
    path = best_path(logs, tokens)
    spans = align(logs, tokens)
    if path is None:
        assert spans is None
        return
    assert spans is not None
    for ours, theirs in zip(spans, spans_of(logs, path), strict=True):
        assert (ours.start, ours.end) == (theirs.start, theirs.end)
        assert ours.score == pytest.approx(theirs.score, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    frames=st.integers(1, 60),
    tokens=st.lists(st.integers(1, 9), min_size=1, max_size=30),
)
def test_spans_are_in_order_inside_the_audio_and_apart_where_tokens_repeat(
    seed: int, frames: int, tokens: list[int]
) -> None:
    spans = align(scores(seed, frames, 10), tokens)
    repeats = sum(a == b for a, b in itertools.pairwise(tokens))
    assert (spans is None) == (frames < len(tokens) + repeats)
    assume(spans is not None)
    assert spans is not None
    assert len(spans) == len(tokens)
    assert spans[0].start >= 0
    assert spans[-1].end <= frames
    assert all(span.start < span.end and 0 <= span.score <= 1 for span in spans)
    for index, (before, after) in enumerate(itertools.pairwise(spans)):
        gap = after.start - before.end
        assert gap >= (1 if tokens[index] == tokens[index + 1] else 0)


def test_repeats_need_a_blank_between_them() -> None:
    assert align(scores(0, 2, 3), [1, 1]) is None
    spans = align(scores(0, 3, 3), [1, 1])
    assert spans is not None
    assert [(span.start, span.end) for span in spans] == [(0, 1), (2, 3)]


def test_clear_speech_is_found_where_it_was() -> None:
    path = (0, 0, 5, 5, 0, 7, 0, 0, 7, 7, 7, 0)
    logs = np.full((len(path), 9), math.log(0.01), np.float32)
    logs[np.arange(len(path)), path] = math.log(0.92)
    spans = align(logs, [5, 7, 7])
    assert spans is not None
    assert [(span.start, span.end) for span in spans] == [(2, 4), (5, 6), (8, 11)]
    assert [span.score for span in spans] == pytest.approx([0.92] * 3)
    unsaid = align(logs, [5, 3, 7])
    assert unsaid is not None
    assert unsaid[1].score == pytest.approx(0.01)


@pytest.mark.parametrize("frames", [0, 1])
def test_what_does_not_fit_has_no_spans(frames: int) -> None:
    assert align(scores(0, frames, 4), [1, 2]) is None


def test_no_text_has_no_spans() -> None:
    assert align(scores(0, 5, 4), []) == []
    assert align(scores(0, 0, 4), []) == []


@given(path=st.lists(st.integers(0, 3), max_size=12))
def test_the_draft_is_the_best_path_collapsed(path: list[int]) -> None:
    logs = np.full((len(path), 4), -5.0, np.float32)
    logs[np.arange(len(path)), path] = -0.1
    assert greedy(logs) == collapse(tuple(path))


def test_another_token_can_be_the_blank() -> None:
    logs = np.full((5, 4), -5.0, np.float32)
    logs[np.arange(5), [3, 0, 0, 3, 0]] = -0.1
    assert greedy(logs, blank=3) == [0, 0]
    spans = align(logs, [0, 0], blank=3)
    assert spans is not None
    assert [(span.start, span.end) for span in spans] == [(1, 3), (4, 5)]


def test_frames_hold_their_draft_and_what_speaks_for_it() -> None:
    logs = np.log(np.full((4, 5), 0.05, np.float32))
    logs[[0, 1, 3], [2, 0, 3]] = np.log(0.8)
    frames = DenseFrames(logs, (2, 3), end=1)
    assert frames.draft() == [2, 3]
    assert frames.evidence([2, 3], 6, 0.0) is None
    assert frames.evidence([2] * 5, 6, 1.0) is None, "it does not fit into the frames"
    scores = frames.evidence([2, 3], 6, 1.0)
    assert scores is not None
    assert scores.shape == (6, 5)
    assert scores.argmax(axis=1).tolist() == [2, 3, 1, 1, 1, 1]
