"""Batches are gathered from clips as a plain loop would do it, and never over the edge."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.corpus import (
    Batch,
    BatchConfig,
    Corpus,
    Layout,
    Piece,
)
from stream_server.training.cuts import Cuts
from stream_server.training.pack import RATE, Packed
from stream_server.training.phones import Lexicon

MakeCorpus = Callable[..., Corpus]


def by_row(layout: Layout) -> list[list[Piece]]:
    """The clips of each row, in order."""
    rows: list[list[Piece]] = [[] for _ in range(layout.shape.rows)]
    for row, piece in layout.pieces:
        rows[row].append(piece)
    return rows


def naive(layout: Layout, clips: list[Packed], batch: Batch) -> np.ndarray:
    """The same rows, clip by clip and without the last two samples of each."""
    rows = np.zeros(batch.pcm.shape)
    for row, pieces in enumerate(by_row(layout)):
        speed = layout.speeds[row]
        for piece in pieces:
            pcm = clips[piece.clip].pcm.astype(float) / 32768
            start = int(piece.start / speed)
            count = min(int((len(pcm) - 2) / speed), rows.shape[1] - start)
            rows[row, start : start + count] = np.interp(
                np.arange(count) * speed, np.arange(len(pcm)), pcm
            )
    return rows


@pytest.mark.parametrize("speed", [(1.0, 1.0), (0.87, 1.15), (2.0, 2.0)])
def test_audio_is_what_a_plain_loop_gathers(
    make_corpus: MakeCorpus, clips: list[Packed], speed: tuple[float, float]
) -> None:
    corpus = make_corpus(speed=speed, empty=0.1)
    for seed in range(4):
        layout = corpus.draw(random.Random(seed), 0)
        batch = corpus.lay_out(layout)
        assert batch.pcm.abs().max() > 0.1
        np.testing.assert_allclose(batch.pcm.numpy(), naive(layout, clips, batch), atol=1e-5)


def test_rows_have_speeds_of_their_own_and_a_shape_all_the_same(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(speed=(0.87, 1.15), durations=(2.0,))
    layouts = [corpus.draw(random.Random(seed), 0) for seed in range(12)]
    speeds = [speed for layout in layouts for speed in layout.speeds]
    assert min(speeds) < 0.9
    assert max(speeds) > 1.12
    assert all(0.87 <= speed <= 1.15 for speed in speeds)
    assert len(set(speeds)) == len(speeds)
    assert {corpus.lay_out(layout).pcm.shape for layout in layouts} == {(4, 32_000)}


def test_text_is_that_of_the_clips_in_order(
    make_corpus: MakeCorpus, clips: list[Packed], tokenizer: Tokenizer, lexicon: Lexicon
) -> None:
    corpus = make_corpus()
    joined = 0
    for seed in range(6):
        layout = corpus.draw(random.Random(seed), 0)
        batch = corpus.lay_out(layout)
        for row, pieces in enumerate(by_row(layout)):
            text = " ".join(clips[piece.clip].text for piece in pieces)
            tokens = batch.text[row, : batch.text_lengths[row]].tolist()
            phones = batch.phones[row, : batch.phone_lengths[row]].tolist()
            assert tokenizer.decode(tokens) == text
            assert phones == lexicon.encode(text)
            assert not batch.text[row, len(tokens) :].any()
            assert not batch.phones[row, len(phones) :].any()
            joined += len(pieces) > 1
    assert joined > 5


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), seconds=st.floats(0.6, 3.0), speed=st.floats(0.8, 1.2))
def test_a_row_never_exceeds_its_width(
    make_corpus: MakeCorpus, clips: list[Packed], seed: int, seconds: float, speed: float
) -> None:
    shape = BatchConfig().shape(seconds)
    samples = int(shape.samples * speed)
    pieces, length = make_corpus(empty=0.1)._compose_row(shape, speed, random.Random(seed))
    assert 0 < length <= samples
    end = 0
    for piece in pieces:
        assert piece.start >= end
        end = piece.start + len(clips[piece.clip].pcm)
    assert end + RATE // 50 <= length or not pieces


@pytest.mark.parametrize("room", [{"tokens_per_second": 1.0}, {"phones_per_second": 0.5}])
def test_a_row_takes_no_clip_more_than_its_text_has_room_for(
    make_corpus: MakeCorpus, room: dict[str, float]
) -> None:
    wide = make_corpus(empty=0.0, durations=(2.0,))
    narrow = make_corpus(empty=0.0, durations=(2.0,), **room)
    most = {"wide": 0, "narrow": 0}
    for seed in range(20):
        for name, corpus in (("wide", wide), ("narrow", narrow)):
            layout = corpus.draw(random.Random(seed), 0)
            batch = corpus.lay_out(layout)
            assert batch.text_lengths.max() <= layout.shape.tokens
            assert batch.phone_lengths.max() <= layout.shape.phones
            most[name] = max(most[name], *map(len, by_row(layout)))
    assert most["narrow"] < most["wide"]


def test_a_batch_has_the_shape_of_its_duration_and_is_silent_behind_each_row(
    make_corpus: MakeCorpus,
) -> None:
    corpus = make_corpus(empty=0.2)
    shapes = {BatchConfig(seconds=8.0).shape(seconds) for seconds in (1.0, 2.0)}
    assert {(shape.rows, shape.samples) for shape in shapes} == {(8, RATE), (4, 2 * RATE)}
    seen = set()
    for seed in range(10):
        layout = corpus.draw(random.Random(seed), 0)
        batch, shape = corpus.lay_out(layout), layout.shape
        seen.add(shape)
        assert batch.pcm.shape == (shape.rows, shape.samples)
        assert batch.text.shape == (shape.rows, shape.tokens)
        assert batch.phones.shape == (shape.rows, shape.phones)
        assert batch.pcm.abs().max() <= 1
        for row, length in enumerate(batch.lengths.tolist()):
            assert not batch.pcm[row, length:].any()
            assert RATE // 5 <= length <= shape.samples
    assert seen == shapes


def test_speech_has_silence_around_it(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(empty=0.0, durations=(2.0,))
    layout = corpus.draw(random.Random(2), 0)
    batch = corpus.lay_out(layout)
    spoken = [(row, pieces) for row, pieces in enumerate(by_row(layout)) if pieces]
    assert len(spoken) > 2
    for row, pieces in spoken:
        start = int(pieces[0].start / layout.speeds[row])
        assert start >= int(0.02 * RATE / 1.15)
        assert not batch.pcm[row, :start].any()


def test_the_same_chance_gives_the_same_batch(make_corpus: MakeCorpus) -> None:
    one, two = (make_corpus().batch(random.Random(5)) for _ in range(2))
    other = make_corpus().batch(random.Random(6))
    assert torch.equal(one.pcm, two.pcm)
    assert torch.equal(one.text, two.text)
    assert one.pcm.shape != other.pcm.shape or not torch.equal(one.pcm, other.pcm)


def test_a_batch_takes_over_another_s_contents(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(durations=(1.0,))
    one, two = (corpus.batch(random.Random(seed)) for seed in (1, 2))
    kept = one.pcm
    assert not torch.equal(one.pcm, two.pcm)
    one.copy(two)
    assert one.pcm is kept, "in place: a captured graph reads it there"
    for item in fields(Batch):
        assert torch.equal(getattr(one, item.name), getattr(two, item.name)), item.name


def test_sets_are_drawn_by_their_weights(clips: list[Packed], tokenizer: Tokenizer) -> None:
    config = BatchConfig(seconds=80, durations=(2.0,), empty=0.0)

    def first_sets(weights: dict[str, float]) -> list[str]:
        corpus = Corpus(clips, tokenizer, weights, config, torch.device("cpu"))
        rows = by_row(corpus.draw(random.Random(1), 0))
        return [clips[pieces[0].clip].set for pieces in rows if pieces]

    assert set(first_sets({"tones": 1.0})) == {"tones"}
    assert set(first_sets({"words": 1.0, "tones": 0.0, "absent": 5.0})) == {"words"}
    both = first_sets({"words": 1.0, "tones": 3.0})
    assert 0.55 < both.count("tones") / len(both) < 0.95


def test_rows_of_nothing_have_no_text(make_corpus: MakeCorpus) -> None:
    batch = make_corpus(empty=1.0).batch(random.Random(1))
    assert not batch.pcm.any()
    assert not batch.text_lengths.any()
    assert not batch.phone_lengths.any()
    assert not batch.text.any()


def test_clips_longer_than_the_row_are_not_taken(tokenizer: Tokenizer) -> None:
    long = Packed(np.ones(20 * RATE, np.int16), "one", "ann", "words")
    config = BatchConfig(seconds=2, durations=(1.0,), empty=0.0)
    corpus = Corpus([long], tokenizer, {"words": 1.0}, config, torch.device("cpu"))
    batch = corpus.batch(random.Random(0))
    assert not batch.pcm.any()
    assert batch.text_lengths.tolist() == [0, 0]


def test_a_set_whose_clips_are_all_too_long_leaves_the_row_to_others(
    clips: list[Packed], tokenizer: Tokenizer
) -> None:
    config = BatchConfig(seconds=55.0, durations=(0.55,), speed=(1.0, 1.0), empty=0.0)
    weights = {"words": 1000.0, "tones": 1.0}  # of 0.6 s, and of 0.25 s and more
    corpus = Corpus(clips, tokenizer, weights, config, torch.device("cpu"))
    pieces = corpus.draw(random.Random(0), 0).pieces
    assert len(pieces) > 10
    assert {clips[piece.clip].set for _, piece in pieces} == {"tones"}


def test_seconds_are_told_by_set(make_corpus: MakeCorpus, clips: list[Packed]) -> None:
    seconds = make_corpus().seconds
    assert set(seconds) == {"tones", "words"}
    assert sum(seconds.values()) * RATE == pytest.approx(sum(len(clip.pcm) for clip in clips))


def test_the_first_batches_are_of_short_rows(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(durations=(1.0, 2.0, 4.0), short=2.0, short_until=10)

    def seconds(step: int) -> set[float]:
        drawn = (corpus.draw(random.Random(seed), step) for seed in range(30))
        return {layout.shape.samples / RATE for layout in drawn}

    assert seconds(0) == seconds(9) == {1.0, 2.0}
    assert seconds(10) == {1.0, 2.0, 4.0}


def test_where_no_row_is_short_the_shortest_comes_first(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(durations=(2.0, 4.0), short=1.0, short_until=10)
    assert {corpus.draw(random.Random(seed), 0).shape.samples for seed in range(10)} == {2 * RATE}


def test_without_a_lexicon_nothing_is_said_in_phones(
    clips: list[Packed], tokenizer: Tokenizer
) -> None:
    config = BatchConfig(seconds=8.0, durations=(2.0,), empty=0.0)
    corpus = Corpus(clips, tokenizer, {"tones": 1.0}, config, torch.device("cpu"))
    batch = corpus.batch(random.Random(0))
    assert batch.text_lengths.any()
    assert not batch.phone_lengths.any()


def test_rows_are_made_of_parts_of_what_can_be_cut(
    clips: list[Packed], tokenizer: Tokenizer, lexicon: Lexicon
) -> None:
    """Of a set that is cut, rows begin with parts as often as asked; the audio is the words'."""
    config = BatchConfig(seconds=40.0, durations=(1.0,), speed=(1.0, 1.0), parts=1.0, empty=0.0)
    cuts = [Cuts(() if " " not in clip.text else (4800,)) for clip in clips]
    corpus = Corpus(clips, tokenizer, {"words": 1.0}, config, torch.device("cpu"), lexicon, cuts)
    halves = {}
    for clip in clips:
        if " " in clip.text:
            first, second = clip.text.split()
            halves[first], halves[second] = clip.pcm[:4800], clip.pcm[4800:]
    layout = corpus.draw(random.Random(1), 0)
    batch = corpus.lay_out(layout)
    rows = by_row(layout)
    assert max(len(pieces) for pieces in rows) > 1
    for row, pieces in enumerate(rows):
        said = tokenizer.decode(batch.text[row, : batch.text_lengths[row]].tolist()).split()
        assert len(said) == len(pieces)
        for word, piece in zip(said, pieces, strict=True):
            heard = batch.pcm[row, piece.start : piece.start + 4700].numpy() * 32768
            np.testing.assert_allclose(heard, halves[word][:4700], atol=1.0)
    assert set(corpus.seconds) == {"tones", "words"}


def test_without_cuts_there_are_no_parts(clips: list[Packed], tokenizer: Tokenizer) -> None:
    config = BatchConfig(seconds=8.0, durations=(1.0,), parts=1.0, empty=0.0)
    corpus = Corpus(clips, tokenizer, {"words": 1.0}, config, torch.device("cpu"))
    said = {clip.text for clip in clips if clip.set == "words"}
    batch = corpus.batch(random.Random(1))
    texts = [
        tokenizer.decode(row[:count].tolist())
        for row, count in zip(batch.text, batch.text_lengths, strict=True)
    ]
    assert set(texts) - {""} <= said | {f"{a} {b}" for a in said for b in said}


def test_rows_of_nothing_are_filled_with_what_is_around_words(
    clips: list[Packed], tokenizer: Tokenizer, lexicon: Lexicon
) -> None:
    """Two stretches of the first clip are all there is: every row is made of them, and says so."""
    config = BatchConfig(seconds=40.0, durations=(2.0,), speed=(1.0, 1.0), empty=1.0, quiet=1.0)
    cuts = [Cuts((), ((0, 1000), (2000, 3500)))]
    device = torch.device("cpu")
    corpus = Corpus(clips, tokenizer, {"words": 1.0}, config, device, lexicon, cuts)
    layout = corpus.draw(random.Random(1), 0)
    batch = corpus.lay_out(layout)
    assert not batch.text_lengths.any()
    assert not batch.phone_lengths.any()
    known = [clips[0].pcm[:1000], clips[0].pcm[2000:3500]]
    for row, pieces in enumerate(by_row(layout)):
        assert pieces[0].start == 0
        ends = [piece.start for piece in pieces[1:]] + [int(batch.lengths[row])]
        for piece, end in zip(pieces[:-1], ends[:-1], strict=True):
            (wanted,) = [each for each in known if len(each) == end - piece.start]
            heard = batch.pcm[row, piece.start : end - 2].numpy() * 32768
            np.testing.assert_allclose(heard, wanted[:-2], atol=1.0)
        assert ends[-1] >= RATE // 2
    assert set(corpus.seconds) == {"tones", "words"}


def test_some_rows_of_nothing_stay_empty(
    clips: list[Packed], tokenizer: Tokenizer, lexicon: Lexicon
) -> None:
    config = BatchConfig(seconds=80.0, durations=(1.0,), empty=1.0, quiet=0.5)
    cuts = [Cuts((), ((0, 1000),))]
    device = torch.device("cpu")
    corpus = Corpus(clips, tokenizer, {"words": 1.0}, config, device, lexicon, cuts)
    layout = corpus.draw(random.Random(1), 0)
    filled = len({row for row, _ in layout.pieces})
    assert 20 < filled < 60
