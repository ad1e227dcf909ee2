"""Word error rates are counted by set, of what CTC and the decoder make of the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

from stream_server.recogniser.interface import Hypothesis, HypothesisWord, Utterance
from stream_server.recogniser.recogniser import DiffusionRecogniser
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.loop import Trainer
from stream_server.training.pack import RATE, Packed
from stream_server.training.validation import WordErrors, validate

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass
class Row:
    """Of a clip whose only level says which word it is."""

    tokens: list[int]
    steps: int
    step: int = 0

    @property
    def ctc(self) -> Row:
        return self

    def draft(self) -> list[int]:
        return self.tokens


@dataclass
class Scripted:
    """CTC hears each word right; the decoder, after as many steps as its number, only the even."""

    tokenizer: Tokenizer
    batches: list[int] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)
    running: int = 0

    def start(self, utterances: Sequence[Utterance]) -> list[Row]:
        self.batches.append(len(utterances))
        self.running += len(utterances)
        numbers = [round(float(each.pcm.max()) * 32768) for each in utterances]
        self.heard += numbers
        assert all(not each.pcm[: RATE // 10].any() for each in utterances), "silence before"
        assert all(not each.pcm[-RATE // 10 :].any() for each in utterances), "and after"
        return [Row(self.tokenizer.encode(DIGITS[n % 10]), n % 10) for n in numbers]

    def step(self, rows: Sequence[Row]) -> list[Hypothesis]:
        found = []
        for row in rows:
            assert row.step <= row.steps, "a final is not stepped again"
            text = DIGITS[row.steps] if row.steps % 2 == 0 else "wrong"
            is_final = row.step == row.steps
            row.step += 1
            words = (HypothesisWord(f" {text}", 1.0),) if is_final else ()
            found.append(Hypothesis((), (), words, row.step, is_final))
        return found

    def release(self, rows: Sequence[Row]) -> None:
        self.running -= len(rows)


def clip(number: int, name: str) -> Packed:
    return Packed(np.full(400, number, np.int16), DIGITS[number % 10], "ann", name, held_out=True)


def test_errors_are_those_of_each_set(tokenizer: Tokenizer) -> None:
    scripted = Scripted(tokenizer)
    clips = [clip(n, "even") for n in (2, 4, 6)] + [clip(n, "mixed") for n in (1, 2, 3, 4)]
    clips.append(Packed(np.full(400, 5, np.int16), "six", "ann", "mislabelled"))
    errors = validate(cast(Any, scripted), tokenizer, clips, 10)
    assert errors == {
        "even": WordErrors(ctc=0.0, final=0.0),
        "mixed": WordErrors(ctc=0.0, final=0.5),
        "mislabelled": WordErrors(ctc=1.0, final=1.0),
    }
    assert scripted.running == 0


def test_of_many_clips_some_are_taken_from_all_over(tokenizer: Tokenizer) -> None:
    scripted = Scripted(tokenizer)
    validate(cast(Any, scripted), tokenizer, [clip(n, "tones") for n in range(1, 201)], 40)
    assert scripted.batches == [32, 8]
    assert len(set(scripted.heard)) == 40
    assert min(scripted.heard) == 1
    assert max(scripted.heard) == 200


def test_a_real_network_is_measured(
    trainer: Trainer, tokenizer: Tokenizer, clips: list[Packed]
) -> None:
    recogniser = DiffusionRecogniser(trainer.model.eval(), tokenizer, torch.device("cpu"), steps=2)
    errors = validate(recogniser, tokenizer, clips, 4)
    assert set(errors) == {"tones", "words"}
    for each in errors.values():
        assert each.ctc > 0.5, "it has learnt nothing"
        assert each.final > 0.5
