"""Evidence follows the draft and what CTC heard there."""

from __future__ import annotations

import numpy as np

from stream_server.recogniser.draft import Candidate, Logs, agreed, evidence


def random_logs(frames: int, vocabulary: int, seed: int) -> Logs:
    scores = np.random.default_rng(seed).normal(0, 1.5, (frames, vocabulary))
    return (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)).astype(np.float32)


def test_evidence_is_what_ctc_heard_where_the_token_lies() -> None:
    logs = np.log(np.full((5, 6), 0.02, np.float32))
    logs[0, 3] = logs[1, 3] = logs[3, 4] = np.log(0.5)
    logs[3, 5] = np.log(0.4)
    draft = [(3, 0, 2), (4, 3, 4)]
    scores = evidence(logs, draft, width=4, end=1, weight=2.0)
    assert scores.shape == (4, 6)
    assert scores.argmax(axis=1).tolist() == [3, 4, 1, 1]
    assert scores[0, 3] == scores[1, 4] == 0, "the draft is what is most likely"
    heard = np.log(np.array([0.4, 0.02]) / (0.5 + 0.4 + 3 * 0.02))
    np.testing.assert_allclose(scores[1, [5, 3]], 2 * (heard - 1), atol=1e-4)
    assert (scores[:, 0] < 2 * -9).all(), "the canvas has no blank"
    assert (scores[2:, 1] == 0).all()
    half = evidence(logs, draft, width=4, end=1, weight=1.0)
    np.testing.assert_allclose(half * 2, scores, rtol=1e-6)


def test_a_draft_is_not_taken_back_for_what_ctc_alone_likes_better() -> None:
    logs = np.log(np.full((1, 6), 0.02, np.float32))
    logs[0, 3], logs[0, 4] = np.log(0.6), np.log(0.3)
    assert evidence(logs, [(4, 0, 1)], width=1, end=1, weight=1.0)[0].argmax() == 4


def test_a_draft_longer_than_the_canvas_is_cut() -> None:
    logs = random_logs(8, 6, 0)
    assert evidence(logs, [(2, n, n + 1) for n in range(8)], 4, 1, 1.0).shape == (4, 6)


def test_what_two_hear_together_is_in_the_order_of_both() -> None:
    found = [Candidate((1,), -3.0, -2.0), Candidate((2,), -4.0, -2.5), Candidate((), -9.0, -8.0)]
    phones = np.array([-12.0, -3.5, -8.0])
    assert agreed(found, phones, 0.0) == found
    half = agreed(found, phones, 0.5)
    assert [(each.tokens, each.score) for each in half] == [((2,), -4.5), ((1,), -8.0), ((), -9.0)]
    assert [each.heard for each in half] == [-2.5, -2.0, -8.0]
