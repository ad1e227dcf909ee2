"""What is heard of phones says which of several texts was said."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stream_server.recogniser.draft import Logs
from stream_server.recogniser.phones import PhoneModel, Sayings, ctc_scores

MakePhones = Callable[..., PhoneModel]


def random_logs(frames: int, classes: int, seed: int) -> Logs:
    scores = np.random.default_rng(seed).normal(0, 1.5, (frames, classes))
    return (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_a_text_is_as_likely_as_all_of_its_paths(
    frames: int, texts: list[list[int]], seed: int
) -> None:
    logs = random_logs(frames, 4, seed)
    totals: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(4), repeat=frames):
        text = tuple(phone for phone, _ in itertools.groupby(path) if phone)
        totals[text] += float(np.exp(sum(logs[frame, each] for frame, each in enumerate(path))))
    for text, score in zip(texts, ctc_scores(logs, texts), strict=True):
        if tuple(text) in totals:
            assert score == pytest.approx(np.log(totals[tuple(text)]), abs=1e-4)
        else:
            assert score < -1e8, "longer than the audio"


def test_it_is_the_loss_that_was_trained_by() -> None:
    logs = random_logs(40, 9, 0)
    texts = [[1, 2, 2, 3], [], [5], [8, 8, 8, 1, 2, 3, 4, 5]]
    losses = [
        nn.functional.ctc_loss(
            torch.from_numpy(logs)[:, None],
            torch.tensor([text], dtype=torch.long),
            torch.tensor([40]),
            torch.tensor([len(text)]),
            reduction="none",
        ).item()
        for text in texts
    ]
    assert ctc_scores(logs, texts).tolist() == pytest.approx([-loss for loss in losses], rel=1e-5)


def test_of_no_texts_there_are_no_scores() -> None:
    assert ctc_scores(random_logs(3, 4, 0), []).tolist() == []


def test_sayings_are_found_by_their_place() -> None:
    said = Sayings.of(np.array([7, 8, 9]), np.array([2, 0, 1]))
    assert [said[place] for place in range(len(said))] == [[7, 8], [], [9]]
    assert said.counts.tolist() == [2, 0, 1]


def test_known_words_are_said_as_the_lexicon_has_them_others_by_their_tokens(
    make_phones: MakePhones,
) -> None:
    phones = make_phones(words={(3, 5): [1, 2], (4,): [3]}, pieces={3: [1], 5: [2, 2], 6: [3]})
    assert phones.phones([3, 5]) == [1, 2]
    assert phones.phones([4, 3, 5]) == [3, 1, 2]
    assert phones.phones([3]) == [1], "not a word that is known"
    assert phones.phones([3, 5, 6]) == [1, 2, 2, 3]
    assert phones.phones([5, 4]) == [2, 2, 3], "what begins no word, at the beginning"
    assert phones.phones([]) == []
    none = make_phones(words={}, pieces={3: [1]})
    assert none.phones([3, 4]) == [1]


def test_the_head_is_a_layer_norm_and_a_linear_layer(make_phones: MakePhones) -> None:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    phones = make_phones(
        scale=norm.weight.detach().numpy(),
        shift=norm.bias.detach().numpy(),
        weight=linear.weight.detach().numpy(),
        bias=linear.bias.detach().numpy(),
    )
    states = torch.randn(5, 8) * 3 + 1
    with torch.no_grad():
        expected = linear(norm(states)).log_softmax(dim=-1)
    np.testing.assert_allclose(phones.logs(states.numpy()), expected.numpy(), atol=1e-5)


def test_of_two_texts_the_one_that_sounds_like_it_scores_higher(make_phones: MakePhones) -> None:
    phones = make_phones(words={(3,): [1, 2], (4,): [1, 3]})
    logs = np.log(np.full((4, 4), 0.02, np.float32))
    logs[0, 1] = logs[1, 0] = logs[2, 2] = logs[3, 0] = np.log(0.94)
    right, wrong, nothing = phones.scores(logs, [[3], [4], []])
    assert right > wrong > nothing


def test_what_was_stored_comes_back(make_phones: MakePhones) -> None:
    phones = make_phones(words={(3, 5): [1, 2], (4,): [3]}, pieces={3: [1], 5: [2, 2]})
    found = PhoneModel.from_arrays(phones.arrays)
    assert found.layer == phones.layer
    for text in ([3, 5], [4], [3], [5, 5], []):
        assert found.phones(text) == phones.phones(text)
    states = np.random.default_rng(0).normal(0, 1, (3, 8)).astype(np.float32)
    np.testing.assert_allclose(found.logs(states), phones.logs(states), atol=0.01)


@pytest.mark.parametrize("name", ["bias", "shift", "words", "heads", "said", "pieces_counts"])
def test_arrays_that_do_not_belong_together_are_refused(make_phones: MakePhones, name: str) -> None:
    arrays = make_phones(words={(3, 5): [1, 2]}, pieces={3: [1]}).arrays
    cut = {**arrays, name: arrays[name][:-1]}
    if name == "pieces_counts":
        cut[name] = arrays[name] + np.uint8(1)  # type: ignore[operator]
    with pytest.raises(ValueError, match="do not belong together"):
        PhoneModel.from_arrays(cut)


def test_a_phone_without_a_class_is_refused(make_phones: MakePhones) -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        PhoneModel.from_arrays(make_phones(words={(4,): [4]}).arrays)


def test_a_text_is_more_or_less_like_what_is_heard_than_silence(make_phones: MakePhones) -> None:
    phones = make_phones(words={(3,): [1, 2], (4,): [1, 3]})
    logs = np.log(np.full((4, 4), 0.02, np.float32))
    logs[0, 1] = logs[1, 0] = logs[2, 2] = logs[3, 0] = np.log(0.94)
    said, silent = phones.scores(logs, [[3], []])
    assert phones.likeness(logs, [3]) == pytest.approx((said - silent) / 2)
    quiet = np.log(np.array([[0.94, 0.02, 0.02, 0.02]] * 4, np.float32))
    likeness = phones.likeness(quiet, [3])
    assert likeness is not None
    assert likeness < 0
    assert phones.likeness(logs, []) is None
    assert phones.likeness(logs, [5]) is None, "a token without phones"
