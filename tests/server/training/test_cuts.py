"""Clips are cut between their words, at the quietest sample; parts are what lies between cuts."""

from __future__ import annotations

import numpy as np
import torch

from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.cuts import LONGEST, find_cuts, parts_of, quietest
from stream_server.training.loop import Trainer
from stream_server.training.pack import RATE, Packed


def clip(text: str, seconds: float = 1.0) -> Packed:
    noise = np.random.default_rng(1).integers(-9000, 9000, int(seconds * RATE))
    return Packed(noise.astype(np.int16), text, "someone", "set")


def test_a_cut_lies_where_least_is_heard() -> None:
    pcm = clip("x").pcm.copy()
    pcm[8300:8700] = 0
    assert abs(quietest(pcm, 8000) - 8500) <= 160
    assert abs(quietest(pcm, 3000) - 3000) <= 960  # nothing quiet near: near all the same


def test_a_cut_at_the_very_edge_stays_inside() -> None:
    pcm = clip("x", 0.1).pcm
    for around in (0, 5, len(pcm) // 2, len(pcm)):
        assert 0 <= quietest(pcm, around) <= len(pcm)


def test_parts_are_every_run_of_words_but_the_whole() -> None:
    whole = clip("a b c")
    parts = parts_of(whole, [4000, 9000])
    assert [(part.start, part.end, part.text) for part in parts] == [
        (0, 4000, "a"),
        (4000, 9000, "b"),
        (9000, RATE, "c"),
        (0, 9000, "a b"),
        (4000, RATE, "b c"),
    ]


def test_parts_are_of_few_words() -> None:
    words = [f"w{n}" for n in range(12)]
    parts = parts_of(clip(" ".join(words)), [1000 * n for n in range(1, 12)])
    assert {len(part.text.split()) for part in parts} == set(range(1, LONGEST + 1))


def test_a_clip_whose_cuts_are_not_known_has_no_parts() -> None:
    assert parts_of(clip("a b c"), []) == []
    assert parts_of(clip("a"), []) == []


def test_cuts_lie_in_order_between_the_words(
    trainer: Trainer, tokenizer: Tokenizer, clips: list[Packed]
) -> None:
    said = [*clips[:2], clip("one two three", 2.0), clip("one two three four five", 0.05)]
    cuts = find_cuts(trainer.model, tokenizer, said, torch.device("cpu"), workers=1)
    assert [len(each) for each in cuts[:2]] == [0, 0]
    assert len(cuts[2]) == 2
    assert 0 < cuts[2][0] < cuts[2][1] < 2 * RATE
    assert cuts[3] == []  # more text than fits into its frames
