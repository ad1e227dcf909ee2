"""What hypotheses say: words, how sure they are, and when they were spoken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_server.recogniser.alignment import DenseFrames
from stream_server.recogniser.interface import Utterance
from stream_server.recogniser.model import ModelConfig, TranscriptionModel
from stream_server.recogniser.recogniser import MIN_SAMPLES, DiffusionRecogniser
from stream_server.recogniser.support import GuardConfig, confidence, support
from stream_server.recogniser.tokenizer import END, Tokenizer
from tests.server.recogniser.scripted import (
    CPU,
    SURE,
    UNSURE,
    MakeRecogniser,
    Script,
    deafen,
    decode,
    finish,
    sentence,
    sound,
    sure,
)


def test_words_come_with_the_last_step(
    recogniser: DiffusionRecogniser, doctor: Any, tokenizer: Tokenizer
) -> None:
    words = tokenizer.encode("six seven")
    doctor(lambda _, width: (sentence(words, width), [UNSURE] * width))
    *before, last = decode(recogniser, Utterance(sound(16_000), steps=3))
    assert [hypothesis.words for hypothesis in before] == [(), ()]
    assert [hypothesis.canvas for hypothesis in (*before, last)] == [None] * 3
    assert [word.text for word in last.words] == ["six", " seven"]


def test_a_trace_shows_canvas_and_words_at_every_step(
    recogniser: DiffusionRecogniser, doctor: Any, tokenizer: Tokenizer
) -> None:
    words = tokenizer.encode("six seven")
    doctor(lambda _, width: (sentence(words, width), [UNSURE] * width))
    said = decode(recogniser, Utterance(sound(16_000), steps=3, trace=True))
    assert len(said) == 3
    for hypothesis in said:
        assert hypothesis.text == "six seven"
        assert hypothesis.canvas is not None
        assert hypothesis.canvas.startswith(" six seven<eos><eos>")


def test_a_word_is_as_sure_as_its_least_sure_token_and_the_audio(
    recogniser: DiffusionRecogniser, doctor: Any, tokenizer: Tokenizer
) -> None:
    words = tokenizer.encode("xylo six")
    places = [places for _, places in tokenizer.words(words)]
    assert len(places[0]) > 1
    sharpness = [SURE] * 48
    sharpness[places[0][1]] = UNSURE
    doctor(lambda _, width: (sentence(words, width), sharpness[:width]))
    rows = recogniser.start([Utterance(sound(16_000), steps=2)])
    last = finish(recogniser, *rows)[0][-1]
    assert last.confidences[places[0][1]] < 0.5
    spans = rows[0].ctc.align(words)
    assert spans is not None
    for word, own, sure_of in zip(last.words, places, (places[0][1], places[1][0]), strict=True):
        heard = support([spans[place] for place in own])
        assert word.confidence == pytest.approx(confidence(last.confidences[sure_of], heard))


def test_text_that_the_audio_does_not_support_is_dropped(
    make: MakeRecogniser, doctor: Any, tokenizer: Tokenizer
) -> None:
    recogniser = make()
    doctor(sure(tokenizer.encode("six seven")))
    recogniser.retune("noise", GuardConfig(0.1, 0.3))
    assert recogniser.guard == GuardConfig(0.1, 0.3)
    traced = decode(recogniser, Utterance(sound(16_000), steps=2, trace=True))
    assert traced[0].text == "six seven"  # on its way it is shown as it is
    assert (traced[-1].text, traced[-1].words) == ("", ())
    assert (traced[0].is_guarded, traced[-1].is_guarded) == (False, True)
    assert traced[-1].tokens == tuple(tokenizer.encode("six seven"))
    recogniser.retune("noise", GuardConfig(0, 0))
    assert decode(recogniser, Utterance(sound(16_000), steps=2))[-1].text == "six seven"


def test_the_first_word_that_stays_begins_the_text(
    make: MakeRecogniser, doctor: Any, tokenizer: Tokenizer
) -> None:
    doctor(sure(tokenizer.encode("six seven")))
    recogniser = make()
    (row,) = recogniser.start([Utterance(sound(16_000), steps=1)])
    tokens = tokenizer.encode("six seven")
    places = [places for _, places in tokenizer.words(tokens)]
    logs = np.full((25, tokenizer.size), -20.0, np.float32)
    logs[:, 0] = 0.0
    for frame, place in enumerate(places[1]):
        logs[10 + frame, tokens[place]] = 0.0
    row.ctc = DenseFrames(logs, (), END)
    recogniser.retune("noise", GuardConfig(0.1, 0))
    assert finish(recogniser, row)[0][-1].text == "seven"


@pytest.mark.parametrize(
    ("text", "lone", "asked"), [("six", 0.2, 1), ("six", 0.0, 0), ("six seven", 0.2, 0)]
)
def test_the_causal_half_is_asked_once_of_a_text_of_one_word_and_never_of_others(
    make_model: Callable[..., TranscriptionModel],
    make: MakeRecogniser,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    lone: float,
    asked: int,
) -> None:
    model, calls = make_model(), []
    own = model.decoder.read

    def read(texts: Sequence[Sequence[int]], *prompt: Any) -> list[float]:
        calls.append([list(each) for each in texts])
        return own(texts, *prompt)

    monkeypatch.setattr(model.decoder, "read", read)
    monkeypatch.setattr(
        model.decoder, "denoise", Script(tokenizer.size, sure(tokenizer.encode(text)))
    )
    recogniser = make(model)
    recogniser.retune("noise", GuardConfig(0, 0, lone=lone))
    rows = recogniser.start([Utterance(sound(6_000), steps=2, trace=True)])
    draft = rows[0].ctc.draft()
    assert 0 < len(draft) <= 12, "brief, so that it may be asked of"
    finish(recogniser, *rows)
    assert calls == [[draft]] * asked


def test_the_start_can_be_another(make: MakeRecogniser) -> None:
    recogniser = make()
    before = recogniser.sampler
    recogniser.retune("ctc", recogniser.guard)
    assert recogniser.sampler == replace(before, start="ctc")
    assert make().sampler == before


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_word_times_are_in_order_and_inside_the_utterance(
    deaf_model: TranscriptionModel, tokenizer: Tokenizer, data: st.DataObject
) -> None:
    recogniser = DiffusionRecogniser(deaf_model, tokenizer, CPU, steps=6)
    samples = data.draw(st.integers(0, 40_000))
    tokens = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deaf_model.decoder, "denoise", Script(tokenizer.size, sure(tokens)))
        last = decode(recogniser, Utterance(sound(samples), steps=1))[-1]
    known = [word for word in last.words if word.start is not None]
    times = [time for word in known for time in (word.start, word.end)]
    assert len(known) in (0, len(last.words))
    assert times == sorted(times)
    assert all(0 <= time <= samples for time in times)


def test_words_that_do_not_fit_into_the_audio_have_no_times(
    recogniser: DiffusionRecogniser, doctor: Any, tokenizer: Tokenizer
) -> None:
    doctor(sure(tokenizer.encode("zzz zzz zzz zzz")))
    last = decode(recogniser, Utterance(sound(MIN_SAMPLES), steps=2))[-1]
    assert {(word.start, word.end) for word in last.words} == {(None, None)}


def test_tokens_that_stand_for_nothing_are_left_out(
    make_model: Callable[..., TranscriptionModel],
    make: MakeRecogniser,
    config: ModelConfig,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = tokenizer.size + 8
    model = deafen(make_model(decoder={**config.decoder, "vocab_size": size}))
    tokens = [*tokenizer.encode("six"), size - 1]
    monkeypatch.setattr(model.decoder, "denoise", Script(size, sure(tokens)))
    assert decode(make(model), Utterance(sound(8000), steps=2))[-1].text == "six"
