"""The beam finds what all alignments together make most probable; evidence follows the draft."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stream_server.recogniser.alignment import greedy
from stream_server.recogniser.draft import DraftConfig, Logs, beam_search, evidence

WIDE = DraftConfig(candidates=3, beam=1000)


def random_logs(frames: int, vocabulary: int, seed: int) -> Logs:
    scores = np.random.default_rng(seed).normal(0, 1.5, (frames, vocabulary))
    return (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)).astype(np.float32)


def all_texts(logs: Logs) -> dict[tuple[int, ...], float]:
    """The log-probability of every text, from every path."""
    totals: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(logs.shape[1]), repeat=len(logs)):
        text = tuple(token for token, _ in itertools.groupby(path) if token)
        totals[text] += float(np.exp(sum(logs[frame, token] for frame, token in enumerate(path))))
    return {text: float(np.log(total)) for text, total in totals.items()}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_a_wide_beam_finds_the_most_probable_texts(frames: int, vocabulary: int, seed: int) -> None:
    logs = random_logs(frames, vocabulary, seed)
    # The search passes over frames of all but certain silence, and tokens far off.
    assume(logs[:, 0].max() < -0.01 and logs.min() > -6)
    every = all_texts(logs)
    found = beam_search(logs, WIDE)
    best = sorted(every.values(), reverse=True)[: WIDE.candidates]
    assert [each.score for each in found] == pytest.approx(best, abs=1e-3)
    for each in found:
        assert each.score == pytest.approx(every[each.tokens], abs=1e-3)


def test_the_most_probable_text_may_not_be_the_best_path() -> None:
    logs = np.log(np.array([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]], np.float32))
    assert logs.argmax(axis=1).tolist() == [0, 0], "the best path says nothing"
    assert beam_search(logs, WIDE)[0].tokens == (1,)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 8), max_size=20), st.integers(1, 3))
def test_where_ctc_is_sure_the_best_path_wins(path: list[int], beam: int) -> None:
    logs = np.full((len(path), 9), np.log(0.02), np.float32)
    logs[range(len(path)), path] = np.log(0.84)
    assert list(beam_search(logs, DraftConfig(beam=beam))[0].tokens) == greedy(logs)


def test_silence_and_what_is_far_off_extend_nothing() -> None:
    logs = np.full((3, 4), np.log(1e-4), np.float32)
    logs[:, 0] = np.log(1 - 3e-4)
    assert [each.tokens for each in beam_search(logs, WIDE)] == [()]


def test_there_are_as_many_candidates_as_asked_for_at_most() -> None:
    logs = random_logs(12, 9, 1)
    found = beam_search(logs, DraftConfig(candidates=5, beam=8))
    assert len(found) == 5
    assert len({each.tokens for each in found}) == 5
    assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)
    (alone,) = beam_search(logs, DraftConfig(candidates=1, beam=8))
    assert alone == found[0]


def test_of_no_frames_nothing_is_said() -> None:
    (found,) = beam_search(np.zeros((0, 4), np.float32), DraftConfig())
    assert found.tokens == ()
    assert found.score == pytest.approx(0.0)


def test_evidence_is_what_ctc_heard_where_the_token_lies() -> None:
    logs = np.log(np.full((5, 6), 0.02, np.float32))
    logs[0, 3] = logs[1, 3] = logs[3, 4] = np.log(0.5)
    logs[3, 5] = np.log(0.4)
    scores = evidence(logs, [(0, 2), (3, 4)], width=4, end=1, weight=2.0)
    assert scores.shape == (4, 6)
    assert scores.argmax(axis=1).tolist() == [3, 4, 1, 1]
    assert scores[1, 4] - scores[1, 5] == pytest.approx(2 * np.log(0.5 / 0.4), abs=1e-4)
    assert scores[1, 4] < 0, "a share of what is no blank"
    assert (scores[:, 0] < 2 * -9).all(), "the canvas has no blank"
    assert (scores[2:, 1] == 0).all()
    half = evidence(logs, [(0, 2), (3, 4)], width=4, end=1, weight=1.0)
    np.testing.assert_allclose(half * 2, scores, rtol=1e-6)


def test_a_draft_longer_than_the_canvas_is_cut() -> None:
    logs = random_logs(8, 6, 0)
    assert evidence(logs, [(n, n + 1) for n in range(8)], 4, 1, 1.0).shape == (4, 6)
