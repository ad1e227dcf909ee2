"""The beam finds what all alignments together make most probable, and what reads well."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stream_server.recogniser.alignment import greedy
from stream_server.recogniser.beam import BeamSearch
from stream_server.recogniser.draft import DraftConfig, Logs
from stream_server.recogniser.ngram import NgramModel
from stream_server.recogniser.phones import PhoneModel

WIDE = DraftConfig(candidates=3, beam=1000)
BEGIN, END = 2, 1
HEADS = (END, 3, 4)
MakePhones = Callable[..., PhoneModel]
MakeLanguage = Callable[[Mapping[tuple[int, ...], tuple[float, float]]], NgramModel]


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


def spoken(*tokens: Sequence[float]) -> Logs:
    """Scores of frames of which every second is silent, the others as given for tokens 3, 4, ..."""
    logs = np.full((2 * len(tokens), 3 + len(tokens[0])), 1e-4, np.float32)
    for place, row in enumerate(tokens):
        logs[2 * place, 3:] += np.array(row, np.float32)
        logs[2 * place + 1, 0] = 1.0
    return np.log(logs / logs.sum(axis=1, keepdims=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_a_wide_beam_finds_the_most_probable_texts(frames: int, vocabulary: int, seed: int) -> None:
    logs = random_logs(frames, vocabulary, seed)
    # The search passes over frames of all but certain silence, and tokens far off.
    assume(logs[:, 0].max() < -0.01 and logs.min() > -6)
    every = all_texts(logs)
    found = BeamSearch(WIDE).candidates(logs)
    best = sorted(every.values(), reverse=True)[: WIDE.candidates]
    assert [each.score for each in found] == pytest.approx(best, abs=1e-3)
    for each in found:
        assert each.score == pytest.approx(every[each.tokens], abs=1e-3)


def test_the_most_probable_text_may_not_be_the_best_path() -> None:
    logs = np.log(np.array([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]], np.float32))
    assert logs.argmax(axis=1).tolist() == [0, 0], "the best path says nothing"
    assert BeamSearch(WIDE).candidates(logs)[0].tokens == (1,)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 8), max_size=20), st.integers(1, 3))
def test_where_ctc_is_sure_the_best_path_wins(path: list[int], beam: int) -> None:
    logs = np.full((len(path), 9), np.log(0.02), np.float32)
    logs[range(len(path)), path] = np.log(0.84)
    found = BeamSearch(DraftConfig(beam=beam)).candidates(logs)
    assert list(found[0].tokens) == greedy(logs)


def test_silence_and_what_is_far_off_extend_nothing() -> None:
    logs = np.full((3, 4), np.log(1e-4), np.float32)
    logs[:, 0] = np.log(1 - 3e-4)
    assert [each.tokens for each in BeamSearch(WIDE).candidates(logs)] == [()]


def test_there_are_as_many_candidates_as_asked_for_at_most() -> None:
    logs = random_logs(12, 9, 1)
    found = BeamSearch(DraftConfig(candidates=5, beam=8)).candidates(logs)
    assert len(found) == 5
    assert len({each.tokens for each in found}) == 5
    assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)
    (alone,) = BeamSearch(DraftConfig(candidates=1, beam=8)).candidates(logs)
    assert alone == found[0]


def test_of_no_frames_nothing_is_said() -> None:
    (found,) = BeamSearch(DraftConfig()).candidates(np.zeros((0, 4), np.float32))
    assert found.tokens == ()
    assert found.score == pytest.approx(0.0)


def test_what_reads_well_wins_over_what_was_heard_a_little_better(
    make_language: MakeLanguage,
) -> None:
    logs = spoken([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.45, 0.55])
    language = make_language(
        {(3,): (-2.0, 0.0), (5,): (-3.0, 0.0), (6,): (-3.0, 0.0), (3, 5): (-0.5, 0.0)}
    )
    alone = BeamSearch(DraftConfig(beam=20)).candidates(logs)[0]
    assert alone.tokens == (3, 6)
    config = DraftConfig(beam=20, language=0.5)
    assert BeamSearch(config, language).candidates(logs)[0].tokens == (3, 5)
    deaf = DraftConfig(beam=20, language=0.0)
    assert BeamSearch(deaf, language).candidates(logs)[0].tokens == (3, 6)


def test_a_text_is_scored_by_all_that_the_configuration_weighs(make_language: MakeLanguage) -> None:
    logs = spoken([0.6, 0.4], [0.3, 0.7])
    entries = {(3,): (-2.0, 0.0), (4,): (-1.0, 0.0), (END,): (-0.5, 0.0)}
    config = DraftConfig(candidates=4, beam=50, language=0.5, token=0.25, unknown=3.0)
    found = BeamSearch(config, make_language(entries)).candidates(logs)
    heard = {each.tokens: each.score for each in BeamSearch(WIDE).candidates(logs)}
    # 4 is a known word, 3 is none; both words of (3, 4) are ended, by a word and by the end.
    read = {(3, 4): 0.5 * (-2 - 1 - 0.5) + 2 * 0.25 - 3.0, (4, 4): 0.5 * (-1 - 1 - 0.5) + 2 * 0.25}
    scores = {each.tokens: each.score for each in found}
    for text, bonus in read.items():
        assert scores[text] == pytest.approx(heard[text] + bonus, abs=0.05)


def test_a_higher_temperature_is_less_sure(make_language: MakeLanguage) -> None:
    logs = spoken([0.9, 0.1])
    language = make_language({(3,): (-4.0, 0.0), (4,): (-1.0, 0.0), (END,): (-0.1, 0.0)})
    cold = DraftConfig(beam=20, language=0.5)
    assert BeamSearch(cold, language).candidates(logs)[0].tokens == (3,)
    warm = DraftConfig(beam=20, language=0.5, temperature=1.6)
    assert BeamSearch(warm, language).candidates(logs)[0].tokens == (4,)


@pytest.mark.parametrize(("blank", "said"), [(0.6, (3,)), (0.8, ())])
@pytest.mark.parametrize("reads", [-11.0, 5.0])
def test_whether_anything_was_said_is_heard_and_not_read(
    make_language: MakeLanguage, blank: float, said: tuple[int, ...], reads: float
) -> None:
    """Two frames: nothing with ``blank`` squared, else 3, however well or badly that reads."""
    logs = np.log(np.array([[blank, 1e-4, 1e-4, 1 - blank]] * 2, np.float32))
    language = make_language({(3,): (-0.1, 0.0), (END,): (reads, 0.0)})
    config = DraftConfig(beam=20, language=1.0)
    assert BeamSearch(config, language).candidates(logs)[0].tokens == said


def test_what_is_heard_is_told_apart_from_what_reads_well(make_language: MakeLanguage) -> None:
    logs = random_logs(5, 5, 3)
    language = make_language({(3,): (-0.5, 0.0), (4,): (-4.0, 0.0)})
    every = all_texts(logs)
    for each in BeamSearch(DraftConfig(candidates=9, beam=1000, language=1.0), language).candidates(
        logs
    ):
        assert each.heard == pytest.approx(every[each.tokens], abs=1e-3)


def test_phones_decide_between_texts_as_far_as_they_may(make_phones: MakePhones) -> None:
    phones = make_phones(words={(3,): [1], (4,): [2]})
    logs = spoken([0.6, 0.4])
    sounds = np.log(np.full((2, 4), 0.01, np.float32))
    sounds[0, 2] = sounds[1, 0] = np.log(0.97)
    config = DraftConfig(candidates=3, beam=20)
    assert BeamSearch(config, None, phones).candidates(logs, sounds)[0].tokens == (3,)
    asked = BeamSearch(replace(config, phones=0.3), None, phones)
    found = asked.candidates(logs, sounds)
    assert [each.tokens for each in found[:2]] == [(4,), (3,)]
    plain = {each.tokens: each for each in BeamSearch(config).candidates(logs)}
    for each in found:
        heard, (said,) = plain[each.tokens].score, phones.scores(sounds, [each.tokens])
        assert each.score == pytest.approx(0.7 * heard + 0.3 * said)
    assert asked.candidates(logs)[0].tokens == (3,), "where no phones were heard"
