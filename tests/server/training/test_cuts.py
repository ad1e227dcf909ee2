"""Clips are cut between their words, at the quietest sample; parts are what lies between cuts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stream_server.recogniser.alignment import TokenSpan
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training import cuts as cuts_module
from stream_server.training.cuts import (
    LONGEST,
    Cuts,
    find_cuts,
    parts_of,
    quietest,
    read_cuts,
    write_cuts,
)
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
    parts = parts_of(whole, Cuts((4000, 9000)))
    assert [(part.start, part.end, part.text) for part in parts] == [
        (0, 4000, "a"),
        (4000, 9000, "b"),
        (9000, RATE, "c"),
        (0, 9000, "a b"),
        (4000, RATE, "b c"),
    ]


def test_parts_are_of_few_words() -> None:
    words = [f"w{n}" for n in range(12)]
    parts = parts_of(clip(" ".join(words)), Cuts(tuple(1000 * n for n in range(1, 12))))
    assert {len(part.text.split()) for part in parts} == set(range(1, LONGEST + 1))


def test_a_clip_whose_cuts_are_not_known_has_no_parts() -> None:
    assert parts_of(clip("a b c"), Cuts()) == []
    assert parts_of(clip("a"), Cuts()) == []


def test_cuts_lie_in_order_between_the_words(
    trainer: Trainer, tokenizer: Tokenizer, clips: list[Packed]
) -> None:
    said = [*clips[:2], clip("one two three", 2.0), clip("one two three four five", 0.05)]
    cuts = find_cuts(trainer.model, tokenizer, said, torch.device("cpu"), workers=1)
    assert [each.between for each in cuts[:2]] == [(), ()]
    first, second = cuts[2].between
    assert 0 < first < second < 2 * RATE
    assert cuts[3] == Cuts()  # more text than fits into its frames


def test_before_and_behind_the_words_nothing_is_said(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said from 1.2 s to 2.0 of 4.0: what is nearer to the words than 0.4 s is left out.

    So is what is loud.
    """
    frame = trainer.model.samples_per_ctc_frame / RATE
    spans = [TokenSpan(round(1.2 / frame), round(2.0 / frame), 0.0)]
    monkeypatch.setattr(cuts_module, "align", lambda *_: spans)
    hop = int(frame * RATE)

    def quiet(seconds: float, level: float = 0.1) -> tuple[tuple[int, int], ...]:
        pcm = clip("one", seconds).pcm.copy()
        pcm[: int(0.8 * RATE)] = (pcm[: int(0.8 * RATE)] * level).astype(np.int16)
        pcm[int(2.4 * RATE) :] = (pcm[int(2.4 * RATE) :] * 0.1).astype(np.int16)
        job = cuts_module._Job(np.zeros((9, 9), np.float32), ((5,),), pcm, hop)
        return cuts_module._cut(job).quiet

    (a, b), (c, d) = quiet(4.0)
    assert (a, d) == (0, 4 * RATE)
    assert b == pytest.approx(0.8 * RATE, abs=hop)
    assert c == pytest.approx(2.4 * RATE, abs=hop)
    assert quiet(2.5) == ((a, b),), "0.1 s behind the words is too little"
    assert quiet(4.0, 0.9) == ((c, d),)


def test_cuts_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [Cuts((4800, 9600), ((0, 3200),)), Cuts(), Cuts((), ((0, 8000), (16000, 32000)))]
    write_cuts(tmp_path / "cuts.json", written)
    assert read_cuts(tmp_path / "cuts.json") == written
