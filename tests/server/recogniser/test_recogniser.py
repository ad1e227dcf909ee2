"""Rows come, are stepped and go; a doctored decoder says what the network would have to."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    StableAndConfidentStoppingCriteria,
)

from stream_server.recogniser.denoise import MASK
from stream_server.recogniser.draft import DraftConfig
from stream_server.recogniser.interface import Hypothesis, Recogniser, Utterance
from stream_server.recogniser.model import CanvasConfig, ModelConfig, TranscriptionModel
from stream_server.recogniser.recogniser import DiffusionRecogniser
from stream_server.recogniser.support import GuardConfig
from stream_server.recogniser.tokenizer import END, Tokenizer
from tests.server.recogniser.scripted import (
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


def test_it_is_a_recogniser(
    recogniser: DiffusionRecogniser, deaf_model: TranscriptionModel
) -> None:
    checked: Recogniser = recogniser
    checked.warm_up()
    info = checked.info
    assert (info.name, info.languages) == ("toy", ("en",))
    assert info.max_samples == deaf_model.config.max_seconds * 16_000 == 320_000
    assert info.default_steps == 6
    assert info.max_rows >= 1
    utterance = Utterance(sound(8000), steps=2)
    (row,) = checked.start([utterance])
    assert row.utterance is utterance


def test_steps_are_counted_and_the_last_one_is_final(
    recogniser: DiffusionRecogniser, doctor: Any, tokenizer: Tokenizer
) -> None:
    words = tokenizer.encode("one two")
    doctor(lambda call, width: (sentence(words[call % 2 :], width), [UNSURE] * width))
    for steps in (1, 2, 5):
        said = decode(recogniser, Utterance(sound(8000), steps=steps))
        assert [hypothesis.step for hypothesis in said] == list(range(1, steps + 1))
        assert [hypothesis.is_final for hypothesis in said] == [False] * (steps - 1) + [True]


def test_the_text_is_what_the_decoder_holds_likeliest(
    recogniser: DiffusionRecogniser, doctor: Any, tokenizer: Tokenizer
) -> None:
    tokens = tokenizer.encode("six seven don't")
    doctor(sure([*tokens, END, *tokens[:1]]))
    last = decode(recogniser, Utterance(sound(16_000), steps=4))[-1]
    assert last.text == "six seven don't"
    assert [word.text for word in last.words] == ["six", " seven", " don't"]
    assert last.tokens == tuple(tokens)
    assert last.confidences == pytest.approx([1.0] * len(tokens))
    assert last.language == "en"


def test_an_utterance_may_be_empty_of_words(recogniser: DiffusionRecogniser, doctor: Any) -> None:
    doctor(sure([]))
    last = decode(recogniser, Utterance(sound(16_000), steps=4))[-1]
    assert last.is_final
    assert (last.text, last.tokens, last.words, last.confidences) == ("", (), (), ())


def test_the_language_asked_for_is_told(
    recogniser: DiffusionRecogniser, doctor: Any, deaf_model: TranscriptionModel
) -> None:
    doctor(sure([]))
    rows = recogniser.start(
        [Utterance(sound(8000), steps=1, language=language) for language in ("de", None)]
    )
    assert [hypothesis.language for hypothesis in recogniser.step(rows)] == ["de", "en"]
    assert not torch.equal(rows[0].cache.keys[0][:, :, 1], rows[1].cache.keys[0][:, :, 1])


@pytest.mark.parametrize("stability", [0, 1, 2])
def test_a_row_stops_when_stable_and_confident_as_in_transformers(
    make_model: Callable[..., TranscriptionModel],
    make: MakeRecogniser,
    config: ModelConfig,
    tokenizer: Tokenizer,
    stability: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = replace(config.sampler, stability=stability, confidence=0.02)
    model = deafen(make_model(sampler=sampler))
    words = [20] * 14
    plan = [("a", UNSURE), ("b", SURE), ("c", SURE), ("c", 6.0), ("d", SURE), ("d", SURE)]
    plan += [("d", SURE)] * 4

    def say(call: int, width: int) -> tuple[list[int], list[float]]:
        name, sharpness = plan[call]
        # The text fills the canvas, so that all of it counts here as it does upstream.
        return [tokenizer.encode(name)[-1], *words, END], [sharpness] * width

    script = Script(model.decoder.vocabulary, say)
    monkeypatch.setattr(model.decoder, "denoise", script)
    said = decode(make(model), Utterance(sound(8000), steps=len(plan)))

    theirs = StableAndConfidentStoppingCriteria(stability, 0.02)
    stops = []
    for call in range(len(plan)):
        script.calls = call
        scores = script(torch.zeros(1, 16, dtype=torch.long), torch.tensor([16]))
        heat = 0.4 + 0.4 * (len(plan) - call) / len(plan)
        stops.append(bool(theirs(scores.argmax(dim=-1), scores / heat)))
    assert len(said) == stops.index(True) + 1 == {0: 2, 1: 6, 2: 7}[stability]


def test_doubt_behind_the_end_of_text_does_not_count(
    recogniser: DiffusionRecogniser, doctor: Any, tokenizer: Tokenizer
) -> None:
    words = tokenizer.encode("six")

    def say(call: int, width: int) -> tuple[list[int], list[float]]:
        doubt = [SURE] * (len(words) + 1) + [UNSURE] * (width - len(words) - 1)
        return sentence(words, width), doubt

    doctor(say)
    assert len(decode(recogniser, Utterance(sound(8000), steps=9))) == 2


def test_doubt_of_the_end_itself_counts(
    recogniser: DiffusionRecogniser, doctor: Any, tokenizer: Tokenizer
) -> None:
    words = tokenizer.encode("six")

    def say(call: int, width: int) -> tuple[list[int], list[float]]:
        doubt = [SURE] * len(words) + [UNSURE] + [SURE] * (width - len(words) - 1)
        return sentence(words, width), doubt

    doctor(say)
    assert len(decode(recogniser, Utterance(sound(8000), steps=9))) == 9


def test_the_next_step_sees_the_last_one(
    recogniser: DiffusionRecogniser, deaf_model: TranscriptionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    denoise = deaf_model.decoder.denoise

    def spy(canvas: Tensor, lengths: Tensor, cache: Any, given: Tensor, which: Tensor) -> Tensor:
        seen.append((canvas, given, which))
        return denoise(canvas, lengths, cache, given, which)

    monkeypatch.setattr(deaf_model.decoder, "denoise", spy)
    rows = recogniser.start([Utterance(sound(8000), steps=4), Utterance(sound(9000), steps=4)])
    recogniser.step(rows[:1])
    recogniser.step(rows)
    recogniser.step(rows)
    assert [which.tolist() for _, _, which in seen] == [[False], [True, False], [True, True]]
    for index, row in enumerate(rows):
        width = len(row.canvas)
        assert row.conditioning is not None
        assert not torch.equal(seen[1][1][index, :width], seen[2][1][index, :width])
    assert not torch.equal(seen[1][0][0], seen[2][0][0])


def together_and_alone(
    recogniser: DiffusionRecogniser, first: Utterance, second: Utterance
) -> tuple[list[list[Hypothesis]], list[list[Hypothesis]]]:
    """Two utterances of which the second joins after two steps, and each of them by itself."""
    (early,) = recogniser.start([first])
    said = [[*recogniser.step([early]), *recogniser.step([early])], []]
    (late,) = recogniser.start([second])
    rows = [early, late]
    for _ in range(20):
        running = [i for i in (0, 1) if not (said[i] and said[i][-1].is_final)]
        if not running:
            break
        hypotheses = recogniser.step([rows[i] for i in running])
        for i, hypothesis in zip(running, hypotheses, strict=True):
            said[i].append(hypothesis)
        recogniser.release([rows[i] for i in running if said[i][-1].is_final])
    return said, [decode(recogniser, first), decode(recogniser, second)]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(12_000, id="same-canvas"),
        pytest.param(
            150_000,
            id="longer-canvas",
        ),
    ],
)
def test_a_row_that_joins_between_steps_changes_nothing(
    recogniser: DiffusionRecogniser, second: int
) -> None:
    first = Utterance(sound(16_000), steps=5, seed=3, draft=(20, 21, 22, 23), trace=True)
    other = Utterance(sound(second, 1), steps=4, seed=4, draft=(30, 31), trace=True)
    together, alone = together_and_alone(recogniser, first, other)
    for ours, theirs in zip(together, alone, strict=True):
        assert [hypothesis.tokens for hypothesis in ours] == [h.tokens for h in theirs]
        assert [hypothesis.canvas for hypothesis in ours] == [h.canvas for h in theirs]
        for one, two in zip(ours, theirs, strict=True):
            assert one.confidences == pytest.approx(two.confidences, abs=1e-3)


def test_a_decode_can_be_repeated_and_another_seed_differs(
    recogniser: DiffusionRecogniser,
) -> None:
    def canvases(seed: int) -> list[str | None]:
        utterance = Utterance(sound(16_000), steps=3, seed=seed, trace=True)
        return [hypothesis.canvas for hypothesis in decode(recogniser, utterance)]

    assert canvases(5) == canvases(5)
    assert canvases(5) != canvases(6)


def test_hypotheses_come_in_the_order_of_the_rows(
    recogniser: DiffusionRecogniser,
) -> None:
    utterances = [Utterance(sound(8000 + 3000 * i, i), steps=9, seed=i) for i in range(3)]
    forward, backward = recogniser.start(utterances), recogniser.start(utterances)
    for _ in range(2):
        ahead = recogniser.step(forward)
        behind = recogniser.step(backward[::-1])
        assert [h.tokens for h in ahead] == [h.tokens for h in behind[::-1]]


# Canvases


def test_a_draft_begins_the_canvas_and_its_end_follows(recogniser: DiffusionRecogniser) -> None:
    draft = (20, 21, 22)
    rows = recogniser.start([Utterance(sound(8000), steps=2, draft=draft, seed=s) for s in (1, 2)])
    assert [row.canvas[:4].tolist() for row in rows] == [[*draft, END]] * 2
    assert not torch.equal(rows[0].canvas[4:], rows[1].canvas[4:])


def test_without_a_draft_the_canvas_is_noise(recogniser: DiffusionRecogniser) -> None:
    rows = recogniser.start([Utterance(sound(8000), steps=2, seed=s) for s in range(20)])
    assert len({int(row.canvas[0]) for row in rows}) > 5
    assert len({tuple(row.canvas.tolist()) for row in rows}) == 20


def test_without_a_draft_the_canvas_may_start_from_ctc(
    make_model: Callable[..., TranscriptionModel], make: MakeRecogniser, config: ModelConfig
) -> None:
    recogniser = make(make_model(sampler=replace(config.sampler, start="ctc")))
    plain, drafted = recogniser.start(
        [Utterance(sound(8000), steps=2), Utterance(sound(8000), steps=2, draft=(20,))]
    )
    heard = plain.ctc.draft()
    assert heard
    assert plain.canvas[: len(heard) + 1].tolist() == [*heard, END][: len(plain.canvas)]
    assert torch.equal(drafted.canvas, plain.canvas), "CTC heard more than an earlier partial"
    assert plain.evidence is None, "without guidance"


def test_ctc_guides_every_step_of_a_canvas_that_starts_from_it(
    make_model: Callable[..., TranscriptionModel], make: MakeRecogniser, config: ModelConfig
) -> None:
    started = replace(config.sampler, start="ctc")
    guided = make(make_model(sampler=started, draft=DraftConfig(guidance=1000.0)))
    noisy = make(make_model(draft=DraftConfig(guidance=1000.0)))
    utterances = [Utterance(sound(8000), steps=3), Utterance(sound(12_000, 1), steps=3)]
    rows = guided.start(utterances)
    for row, (*_, last) in zip(rows, finish(guided, *rows), strict=True):
        assert row.evidence is not None
        assert row.evidence.shape == (len(row.canvas), guided._model.vocabulary)
        assert list(last.tokens) == row.ctc.draft(), "nothing else can win against so much weight"
    (row,) = noisy.start(utterances[:1])
    assert row.evidence is None, "what starts from noise is not guided"


def test_a_guided_step_keeps_what_ctc_heard_where_the_decoder_is_unsure(
    make_model: Callable[..., TranscriptionModel],
    make: MakeRecogniser,
    config: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard, other, third = 20, 21, 22

    def hear(tokens: Tensor) -> Tensor:
        """Sure of the first word; little surer of the second than of another."""
        shares = torch.full((1, tokens.shape[1], 64), 1e-4)
        shares[:, :, 0] = 1.0
        shares[:, 0, [0, heard]] = torch.tensor([0.05, 0.95])
        shares[:, 2, [0, other, third]] = torch.tensor([0.05, 0.5, 0.45])
        return (shares / shares.sum(dim=-1, keepdim=True)).log()

    def doubtful_then_sure(_: int, width: int) -> tuple[list[int], list[float]]:
        return sentence([30, third], width), [UNSURE, SURE, *[SURE] * width][:width]

    said = []
    for guidance in (0.0, 2.0):
        sampler = replace(config.sampler, start="ctc")
        network = make_model(sampler=sampler, draft=DraftConfig(guidance=guidance))
        monkeypatch.setattr(network.ctc, "forward", hear)
        script = Script(network.vocabulary, doubtful_then_sure)
        monkeypatch.setattr(network.decoder, "denoise", script)
        recogniser = make(network)
        recogniser.retune("ctc", GuardConfig(0, 0))
        (row,) = recogniser.start([Utterance(sound(16_000), steps=4)])
        assert row.ctc.draft() == [heard, other]
        ((*_, last),) = finish(recogniser, row)
        said.append(last.tokens)
    assert said == [(30, third), (heard, third)]


def test_a_draft_longer_than_the_largest_canvas_is_cut(recogniser: DiffusionRecogniser) -> None:
    (row,) = recogniser.start([Utterance(sound(8000), steps=2, draft=tuple([20] * 90))])
    assert row.canvas.tolist() == [20] * 47 + [END]
    recogniser.step([row])


def test_the_canvas_holds_what_the_length_and_the_draft_let_expect(
    recogniser: DiffusionRecogniser, doctor: Any
) -> None:
    doctor(sure([]))

    def width(seconds: float, draft: int = 0) -> int:
        pcm = np.zeros(int(seconds * 16_000), np.float32)
        (row,) = recogniser.start([Utterance(pcm, steps=1, draft=tuple([20] * draft))])
        recogniser.step([row])
        return len(row.canvas)

    assert [width(0), width(0.5), width(9.4), width(15), width(19)] == [16, 16, 32, 48, 48]
    assert [width(0.5, draft) for draft in (8, 20, 40)] == [16, 32, 48]


def long_text(length: int) -> Callable[[int, int], tuple[list[int], list[float]]]:
    """A script that has ``length`` tokens to say, and so no end on a shorter canvas."""
    return lambda _, width: (sentence([20 + i % 9 for i in range(length)], width), [SURE] * width)


def test_a_text_that_finds_no_end_gets_a_larger_canvas(
    recogniser: DiffusionRecogniser, doctor: Any
) -> None:
    script = doctor(long_text(20))
    last = decode(recogniser, Utterance(sound(4000), steps=6))[-1]
    assert len(last.tokens) == 20
    first, *_, final = script.seen
    assert first.shape[1] == 16
    assert final.shape[1] > 20
    grown = next(canvas for canvas in script.seen if canvas.shape[1] > 16)
    assert grown[0, :16].tolist() == [20 + i % 9 for i in range(16)]


def test_a_text_that_never_ends_is_finished_all_the_same(
    recogniser: DiffusionRecogniser, doctor: Any
) -> None:
    script = doctor(long_text(10_000))
    for steps in (1, 2, 6):
        script.seen.clear()
        last = decode(recogniser, Utterance(sound(4000), steps=steps))[-1]
        assert len(last.tokens) == 32
        assert len(script.seen) <= steps + max(2, steps // 2)


def test_steps_are_counted_on_when_the_canvas_grows(
    recogniser: DiffusionRecogniser, doctor: Any
) -> None:
    doctor(long_text(20))
    said = decode(recogniser, Utterance(sound(4000), steps=6))
    assert [hypothesis.step for hypothesis in said] == list(range(1, len(said) + 1))


def test_a_canvas_grows_to_the_next_size(
    make_model: Callable[..., TranscriptionModel],
    make: MakeRecogniser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = deafen(make_model(canvas=CanvasConfig(buckets=(16, 20, 24, 28, 48))))
    script = Script(model.decoder.vocabulary, long_text(18))
    monkeypatch.setattr(model.decoder, "denoise", script)
    decode(make(model), Utterance(sound(4000), steps=6))
    assert [width for width, _ in itertools.groupby(c.shape[1] for c in script.seen)] == [16, 20]


def test_a_canvas_grows_once(
    make_model: Callable[..., TranscriptionModel],
    make: MakeRecogniser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = deafen(make_model(canvas=CanvasConfig(buckets=(16, 20, 24, 28, 48))))
    script = Script(model.decoder.vocabulary, long_text(10_000))
    monkeypatch.setattr(model.decoder, "denoise", script)
    decode(make(model), Utterance(sound(4000), steps=6))
    assert len({canvas.shape[1] for canvas in script.seen}) == 2


def test_the_canvas_is_told_when_it_grows(recogniser: DiffusionRecogniser, doctor: Any) -> None:
    doctor(long_text(20))
    said = decode(recogniser, Utterance(sound(4000), steps=6, trace=True))
    assert all(hypothesis.canvas for hypothesis in said)


# The absorbing scheme


def test_a_canvas_of_masks_is_revealed_and_not_redrawn(
    make_model: Callable[..., TranscriptionModel],
    make: MakeRecogniser,
    config: ModelConfig,
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: Tokenizer,
) -> None:
    sampler = replace(config.sampler, scheme="absorbing", confidence=0.0)
    model = deafen(make_model(sampler=sampler))
    first, second = tokenizer.encode("six"), tokenizer.encode("two")

    def waver(call: int, width: int) -> tuple[list[int], list[float]]:
        # The other text after two of four steps: what was revealed before stays.
        return sentence(first if call < 2 else second, width), [SURE] * width

    script = Script(model.decoder.vocabulary, waver)
    monkeypatch.setattr(model.decoder, "denoise", script)
    draft = tuple(tokenizer.encode("nine"))
    last = decode(make(model), Utterance(sound(8000), steps=4, draft=draft))[-1]
    canvases = [canvas[0].tolist() for canvas in script.seen]
    assert canvases[0] == [MASK] * len(canvases[0])
    masks = [canvas.count(MASK) for canvas in canvases]
    assert masks == sorted(masks, reverse=True)
    assert len(masks) == last.step == 4
    width = len(canvases[0])
    assert masks == [width, width - width // 4, width // 2, width // 4]
    assert last.text == "six"


def test_a_row_of_masks_does_not_depend_on_its_neighbours(
    make_model: Callable[..., TranscriptionModel], make: MakeRecogniser, config: ModelConfig
) -> None:
    model = make_model(sampler=replace(config.sampler, scheme="absorbing"))
    recogniser = make(model)
    utterances = [Utterance(sound(size, size), steps=6) for size in (8000, 20_000, 31_000)]
    together = finish(recogniser, *recogniser.start(utterances))
    for utterance, said in zip(utterances, together, strict=True):
        assert decode(recogniser, utterance)[-1].tokens == said[-1].tokens
