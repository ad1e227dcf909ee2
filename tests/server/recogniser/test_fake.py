"""The fake recogniser keeps the interface's promises, and says the same thing twice."""

from __future__ import annotations

import time

import numpy as np
import pytest

from stream_server.recogniser.fake import FAKE_INFO, VOCABULARY, WORD_SAMPLES, FakeRecogniser
from stream_server.recogniser.interface import Hypothesis, Pcm, Recogniser, Utterance


def sound(words: int, seed: int = 0) -> Pcm:
    """Noise whose loudness differs from word to word."""
    noise = np.random.default_rng(seed)
    loudness = np.repeat(noise.uniform(0.02, 0.4, 3 * words), WORD_SAMPLES // 3)
    return (loudness * noise.standard_normal(len(loudness))).astype(np.float32)


def run(utterance: Utterance, recogniser: FakeRecogniser | None = None) -> list[Hypothesis]:
    recogniser = recogniser or FakeRecogniser()
    rows = recogniser.start([utterance])
    hypotheses = []
    while not (hypotheses and hypotheses[-1].is_final):
        hypotheses += recogniser.step(rows)
    recogniser.release(rows)
    return hypotheses


def test_it_is_a_recogniser() -> None:
    recogniser: Recogniser = FakeRecogniser()
    recogniser.warm_up()
    assert recogniser.info is FAKE_INFO
    assert recogniser.info.name == "fake"


def test_the_same_audio_gives_the_same_words_whatever_the_seed() -> None:
    first = run(Utterance(sound(5), steps=4, seed=1))[-1]
    second = run(Utterance(sound(5), steps=8, seed=2))[-1]
    assert len(first.text.split()) == 5
    assert first.text == second.text
    assert first.text != run(Utterance(sound(5, seed=9), steps=4))[-1].text


def test_more_audio_gives_the_same_text_and_more() -> None:
    short = run(Utterance(sound(6)[: 4 * WORD_SAMPLES], steps=2))[-1]
    long = run(Utterance(sound(6), steps=2))[-1]
    assert long.text.startswith(short.text + " ")


def test_other_audio_gives_many_words() -> None:
    assert len(set(run(Utterance(sound(100), steps=1))[-1].tokens)) > 20


@pytest.mark.parametrize(
    "pcm",
    [
        np.zeros(16_000, np.float32),
        np.full(16_000, 0.0001, np.float32),
        np.full(16_000, np.nan, np.float32),
        np.zeros(0, np.float32),
        sound(1)[:100],
    ],
)
def test_silence_gives_no_words(pcm: Pcm) -> None:
    hypotheses = run(Utterance(pcm, steps=8))
    assert len(hypotheses) == 1
    assert hypotheses[0].text == ""
    assert hypotheses[0].tokens == ()


def test_words_have_times_and_confidences_and_silence_between_them() -> None:
    pcm = np.concatenate([np.zeros(WORD_SAMPLES, np.float32), sound(2)])
    last = run(Utterance(pcm, steps=3))[-1]
    assert [(word.start, word.end) for word in last.words] == [(4800, 9600), (9600, 14400)]
    assert all(0.7 <= word.confidence <= 1 for word in last.words)
    assert last.words[1].text.startswith(" ")
    assert not last.words[0].text.startswith(" ")
    assert last.confidences == tuple(word.confidence for word in last.words)
    assert [VOCABULARY[token] for token in last.tokens] == last.text.split()


@pytest.mark.parametrize("steps", [1, 2, 8, 20])
def test_it_takes_the_steps_it_is_given(steps: int) -> None:
    hypotheses = run(Utterance(sound(6), steps=steps))
    assert [hypothesis.step for hypothesis in hypotheses] == list(range(1, steps + 1))
    assert [hypothesis.is_final for hypothesis in hypotheses] == [False] * (steps - 1) + [True]
    assert all(hypothesis.words == () for hypothesis in hypotheses[:-1])


def test_each_step_puts_more_of_the_canvas_right() -> None:
    hypotheses = run(Utterance(sound(12), steps=4, trace=True))
    answer = hypotheses[-1].tokens
    right = [
        sum(token == true for token, true in zip(hypothesis.tokens, answer, strict=True))
        for hypothesis in hypotheses
    ]
    assert right == sorted(right)
    assert right[0] < right[-1] == 12
    assert all(hypothesis.canvas == hypothesis.text for hypothesis in hypotheses)


def test_the_canvas_is_shown_only_where_traced() -> None:
    assert all(each.canvas is None for each in run(Utterance(sound(3), steps=3)))


def test_a_right_draft_saves_steps_and_a_wrong_one_costs_nothing_but_steps() -> None:
    tokens = run(Utterance(sound(8), steps=8))[-1].tokens
    warm = run(Utterance(sound(8), steps=8, draft=tokens[:6]))
    assert len(warm) == 2
    assert warm[-1].tokens == tokens
    wrong = tuple((token + 1) % len(VOCABULARY) for token in tokens)
    cold = run(Utterance(sound(8), steps=8, draft=wrong))
    assert len(cold) == 8
    assert cold[-1].tokens == tokens


def test_a_draft_longer_than_the_audio_is_cut() -> None:
    draft = tuple(range(30))
    assert len(run(Utterance(sound(2), steps=4, draft=draft))[-1].tokens) == 2


def test_the_language_is_echoed() -> None:
    assert run(Utterance(sound(1), steps=1))[-1].language == "en"
    assert run(Utterance(sound(1), steps=1, language="de"))[-1].language == "de"


def test_rows_differ_in_steps_and_are_counted_until_released() -> None:
    recogniser = FakeRecogniser()
    rows = recogniser.start([Utterance(sound(2), steps=1), Utterance(sound(3), steps=2)])
    assert recogniser.live_rows == 2
    assert [hypothesis.is_final for hypothesis in recogniser.step(rows)] == [True, False]
    recogniser.release(rows[:1])
    assert recogniser.step(rows[1:])[0].is_final
    recogniser.release(rows)
    assert recogniser.live_rows == 0


def test_misuse_is_an_error() -> None:
    recogniser = FakeRecogniser()
    rows = recogniser.start([Utterance(sound(1), steps=1)])
    recogniser.step(rows)
    with pytest.raises(ValueError, match="finished"):
        recogniser.step(rows)
    recogniser.release(rows)
    with pytest.raises(ValueError, match="released"):
        recogniser.step(rows)
    many = recogniser.start([Utterance(sound(1), steps=1)] * (FAKE_INFO.max_rows + 1))
    with pytest.raises(ValueError, match="rows in one step"):
        recogniser.step(many)


def test_step_seconds_imitate_load() -> None:
    before = time.perf_counter()
    run(Utterance(sound(1), steps=3), FakeRecogniser(step_seconds=0.01))
    assert time.perf_counter() - before >= 0.03
