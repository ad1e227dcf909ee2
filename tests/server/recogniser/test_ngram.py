"""The table gives back what was put in, backs off where it must, and knows its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from stream_server.recogniser.ngram import NgramModel, longer_keys, mixed, word_keys

BEGIN, END, HEAD, TAIL = 2, 1, 3, 5
"""Tokens 3 and 4 begin words; 5 and 6 go on with one."""
MakeLanguage = Callable[[Mapping[tuple[int, ...], tuple[float, float]]], NgramModel]
ENTRIES = {
    (3,): (-2.0, -0.5),
    (4,): (-3.0, 0.25),
    (5,): (-4.0, -0.125),
    (END,): (-1.5, 0.0),
    (BEGIN, 3): (-0.25, -1.0),
    (3, 5): (-0.75, -0.25),
    (BEGIN, 3, 5): (-0.0625, 0.0),
}


def read(language: NgramModel, tokens: Sequence[int]) -> tuple[list[float], list[bool]]:
    """The score of each token of a text, and whether it ended an unknown word."""
    contexts, scores, unknown = language.start(), [], []
    for token in tokens:
        answer = language.read(contexts, np.array([token]))
        contexts = answer.contexts
        scores.append(float(answer.scores[0]))
        unknown.append(bool(answer.unknown[0]))
    return scores, unknown


def test_the_longest_sequence_there_is_gives_the_score(make_language: MakeLanguage) -> None:
    scores, _ = read(make_language(ENTRIES), [3, 5])
    assert scores == [-0.25, -0.0625]


def test_contexts_that_did_not_see_the_token_give_their_back_off(
    make_language: MakeLanguage,
) -> None:
    scores, _ = read(make_language(ENTRIES), [3, 4, 5, END])
    # 4: behind (begin, 3) and (3) it is not there; 5: behind 4 it is not; end: 5's back-off.
    assert scores == [-0.25, -3.0 - 1.0 - 0.5, -4.0 + 0.25, -1.5 - 0.125]


def test_a_token_that_is_nowhere_is_all_but_impossible(make_language: MakeLanguage) -> None:
    assert read(make_language(ENTRIES), [6])[0] == [-12.0]


def test_texts_are_read_side_by_side(make_language: MakeLanguage) -> None:
    language = make_language(ENTRIES)
    texts = [[3, 5, END], [4, 5, 3], [3, 4, 4]]
    contexts = language.start().take(np.zeros(3, np.intp))
    together = []
    for tokens in zip(*texts, strict=True):
        answer = language.read(contexts, np.array(tokens))
        contexts = answer.contexts
        together.append(answer.scores)
    assert np.array(together).T.tolist() == [read(language, text)[0] for text in texts]


def test_contexts_are_taken_and_joined(make_language: MakeLanguage) -> None:
    language = make_language(ENTRIES)
    first = language.start()
    later = language.read(first, np.array([3])).contexts
    both = first.join(later)
    scores = language.read(both.take(np.array([1, 0])), np.array([5, 3])).scores
    assert scores.tolist() == [-0.0625, -0.25]


def test_words_end_where_another_begins_and_at_the_end(make_language: MakeLanguage) -> None:
    language = make_language(ENTRIES)
    # Known words, as the fixture has them: (4,) and (3, 5).
    assert read(language, [3, 5, 4, END])[1] == [False, False, False, False]
    assert read(language, [3, 4, 5, END])[1] == [False, True, False, True]
    assert read(language, [3, 5, 5, 3])[1] == [False, False, False, True]


def test_it_is_read_from_what_is_stored(make_language: MakeLanguage) -> None:
    language = make_language(ENTRIES)
    again = NgramModel.from_arrays(language.arrays)
    text = [3, 5, 4, 4, 3, END]
    assert read(again, text) == read(language, text)


def test_stored_arrays_that_do_not_belong_together_are_refused(
    make_language: MakeLanguage,
) -> None:
    arrays = make_language(ENTRIES).arrays
    with pytest.raises(ValueError, match="belong together"):
        NgramModel.from_arrays({**arrays, "kept": arrays["kept"][1:]})
    with pytest.raises(KeyError, match="words"):
        NgramModel.from_arrays({name: each for name, each in arrays.items() if name != "words"})


def test_many_entries_are_found_and_hardly_any_by_mistake() -> None:
    chance = np.random.default_rng(0)
    keys = chance.integers(0, 2**63, 50_000).astype(np.uint64)
    scores = -chance.integers(0, 200, 50_000) / 16
    none = np.zeros(0, np.uint64)
    heads = np.zeros(9, np.uint8)
    language = NgramModel.build(2, BEGIN, (keys, scores, np.zeros(50_000)), heads, none)
    found = language._find(keys)
    assert (found >= 0).all()
    assert np.mean(-(language.scores[found] / 16) == scores) > 0.999
    others = chance.integers(2**63, 2**64, 50_000, dtype=np.uint64)
    assert (language._find(others) >= 0).mean() < 0.001


def test_keys_tell_order_and_length_apart() -> None:
    start = np.zeros(1, np.uint64)

    def key(*tokens: int) -> int:
        keys = start
        for token in tokens:
            keys = longer_keys(keys[:, None], np.array([token]))[:, 0]
        return int(mixed(keys)[0])

    texts = [(0,), (0, 0), (1,), (1, 2), (2, 1), (1, 2, 3)]
    assert len({key(*text) for text in texts}) == len(texts)


def test_words_are_known_by_their_tokens(make_language: MakeLanguage) -> None:
    language = make_language({(3,): (-2.0, -0.5)})
    assert language.knows(word_keys([[4], [3, 5], [3], [5, 3], []])).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]
