"""A step on the device: transformers' scores, the sampler's rules, state that stays in slots."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from stream_server.evaluation.decode_bench import Shape, difference, scores_of, stock_scores
from stream_server.recogniser.backbone import random_gemma
from stream_server.recogniser.denoise import SamplerConfig
from stream_server.recogniser.denoiser import Denoiser
from stream_server.recogniser.kernels.choice import plain_kernels
from stream_server.recogniser.kernels.noise import count_noise

WIDTH, PROMPT = 12, 9
WIDE = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "global_head_dim": 64,
    "num_global_key_value_heads": 1,
    "sliding_window": 1024,
    "num_experts": 32,
    "top_k_experts": 4,
    "moe_intermediate_size": 32,
    "max_position_embeddings": 1024,
    "vocab_size": 500,
}


@pytest.fixture
def model(published_folders: Any) -> Any:
    """transformers' own."""
    model = copy.deepcopy(published_folders.model)
    model.set_experts_implementation("eager")
    return model.eval()


def build(model: Any, top: int = 0, bound: float = 3.0, unit: int = 0) -> Denoiser:
    sampler = SamplerConfig(entropy_bound=bound)
    denoiser = Denoiser(model, plain_kernels(), sampler, 3, 64, WIDTH, top, unit)
    slot = torch.tensor([1])
    denoiser.slots.prompts[slot] = PROMPT
    denoiser.slots.widths[slot] = WIDTH
    denoiser.slots.heat[slot] = 0.7
    denoiser.slots.seeds[slot] = 11
    return denoiser


@torch.inference_mode()
def test_two_steps_have_the_scores_of_transformers(model: Any) -> None:
    denoiser, slot = build(model), torch.tensor([1])
    embeddings = torch.randn(1, PROMPT, 32)
    past = DynamicCache()
    model.model.encoder.language_model(inputs_embeds=embeddings, past_key_values=past)
    denoiser.prefill(embeddings, torch.tensor([PROMPT]), slot)
    canvas = torch.randint(denoiser.vocabulary, (1, WIDTH))
    denoiser.slots.canvas[slot] = canvas
    conditioning = None
    for _ in range(2):
        canvas = denoiser.slots.canvas[slot].clone()
        wanted = model(
            decoder_input_ids=canvas,
            past_key_values=past,
            self_conditioning_logits=conditioning,
            decoder_attention_mask={"full_attention": None, "sliding_attention": None},
            decoder_position_ids=torch.arange(PROMPT, PROMPT + WIDTH)[None],
        ).logits[0]
        scores = torch.tanh(denoiser.scores(*denoiser.units(slot, WIDTH)) / 30) * 30
        torch.testing.assert_close(scores, wanted, rtol=1e-3, atol=1e-4)
        outcome = denoiser.step(*denoiser.units(slot, WIDTH))
        assert outcome.argmax[0].tolist() == wanted.argmax(-1).tolist()
        shares = (wanted / 0.7).softmax(-1)
        entropy = torch.distributions.Categorical(shares).entropy()
        torch.testing.assert_close(outcome.entropy[0], entropy, rtol=1e-3, atol=1e-4)
        conditioning = (wanted / 0.7)[None]


@torch.inference_mode()
def test_what_is_not_accepted_becomes_counted_noise(model: Any) -> None:
    denoiser, slot = build(model), torch.tensor([1])
    denoiser.prefill(torch.randn(1, PROMPT, 32), torch.tensor([PROMPT]), slot)
    kept = denoiser.step(*denoiser.units(slot, WIDTH)).accepted[0]
    _, fresh = count_noise(torch.tensor([11]), WIDTH, denoiser.vocabulary)
    canvas = denoiser.slots.canvas[1]
    assert 0 < int(kept.sum()) < WIDTH
    assert canvas[~kept].tolist() == fresh[0][~kept].tolist()
    assert denoiser.slots.canvas[0].tolist() == [0] * WIDTH, "other slots are untouched"


@torch.inference_mode()
def test_self_conditioning_on_all_words_is_the_exact_one(model: Any) -> None:
    exact, shortened = build(model), build(model, top=model.config.text_config.vocab_size)
    rough = build(model, top=1)
    embeddings = torch.randn(1, PROMPT, 32)
    slot = torch.tensor([1])
    for each in (exact, shortened, rough):
        each.prefill(embeddings, torch.tensor([PROMPT]), slot)
        each.step(*each.units(slot, WIDTH))
    torch.testing.assert_close(exact.slots.soft, shortened.slots.soft, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(exact.slots.soft, rough.slots.soft, atol=1e-2)


@torch.inference_mode()
def test_in_bfloat16_it_errs_as_transformers_does() -> None:
    """Roundings flip experts, so two right answers differ; what counts is the way to the truth."""
    shape, seeds = Shape(1, 24, 30), range(4)
    exact = random_gemma(WIDE, torch.device("cpu"), torch.float32)
    for parameter in exact.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(4)
    exact.set_experts_implementation("eager")
    rough = copy.deepcopy(exact).to(torch.bfloat16)
    truth = Denoiser(exact, plain_kernels(), SamplerConfig(), 1, 54, 24)
    ours = Denoiser(copy.deepcopy(rough), plain_kernels(), SamplerConfig(), 1, 54, 24)
    found = {"ours": 0.0, "theirs": 0.0}
    for seed in seeds:
        wanted = scores_of(truth, shape, seed)
        found["ours"] += difference(scores_of(ours, shape, seed), wanted)["scores"] / len(seeds)
        theirs = stock_scores(rough, ours, shape, seed)
        found["theirs"] += difference(theirs, wanted)["scores"] / len(seeds)
    assert found["theirs"] > 0.005, "rounding matters here"
    assert found["ours"] < 1.25 * found["theirs"], found


def test_more_positions_than_the_window_are_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="window of 1024 would bind"):
        Denoiser(model, plain_kernels(), SamplerConfig(), 1, 1025, 8)


@torch.inference_mode()
@pytest.mark.parametrize("unit", [3, 4, 6])
def test_units_are_a_canvas_in_pieces(model: Any, unit: int) -> None:
    """Also of a row that is shorter than its last unit, and beside others."""
    whole, pieces = build(model), build(model, unit=unit)
    embeddings = torch.randn(3, PROMPT, 32)
    lengths, slots = torch.tensor([PROMPT, 4, 7]), torch.tensor([1, 2, 0])
    canvas = torch.randint(whole.vocabulary, (3, WIDTH))
    outcomes = []
    for each in (whole, pieces):
        each.prefill(embeddings, lengths, slots)
        state = each.slots
        state.prompts[slots], state.widths[slots] = lengths, torch.tensor([WIDTH, 5, 7])
        state.canvas[slots], state.heat[slots] = canvas, 0.7
        for _ in range(2):
            outcome = each.step(*each.units(slots, WIDTH))
        outcomes.append(outcome.argmax.view(3, WIDTH))
    for row, size in enumerate((WIDTH, 5, 7)):
        slot = int(slots[row])
        assert outcomes[0][row, :size].tolist() == outcomes[1][row, :size].tolist()
        kept = [each.slots.canvas[slot, :size].tolist() for each in (whole, pieces)]
        assert kept[0] == kept[1]
        soft = [each.slots.soft[slot, :size] for each in (whole, pieces)]
        torch.testing.assert_close(soft[0], soft[1], rtol=1e-3, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("is_split", [False, True])
def test_a_prompt_in_a_step_is_a_prompt_before_it(model: Any, is_split: bool) -> None:
    """One row is under way and two are new, one of which has half of its prompt behind it."""
    unit = 4
    apart, beside = build(model, unit=unit), build(model, unit=unit)
    embeddings = torch.randn(3, PROMPT, 32)
    lengths, slots = torch.tensor([PROMPT, 4, 7]), torch.tensor([1, 2, 0])
    for each in (apart, beside):
        state = each.slots
        state.prompts[slots], state.widths[slots] = lengths, torch.tensor([WIDTH, 5, 7])
        state.canvas[slots] = torch.randint(each.vocabulary, (3, WIDTH), generator=seeded())
        state.heat[slots] = 0.7
        state.heard[slots, :PROMPT] = embeddings
        each.prefill(embeddings[:1], lengths[:1], slots[:1])
    apart.prefill(embeddings[1:], lengths[1:], slots[1:])
    units = apart.units(slots, WIDTH)
    wanted = apart.step(*units)
    new = torch.tensor([2, 0, 0]), torch.tensor([0, 0, 1])
    if is_split:
        beside.read(new[0][:2], new[1][:2])
        new = new[0][2:], new[1][2:]
    got = beside.step(*units, new)
    for row, size in enumerate((WIDTH, 5, 7)):
        part = (row, slice(size))
        for name in ("argmax", "accepted"):
            one, other = (getattr(each, name).view(3, WIDTH)[part] for each in (wanted, got))
            assert one.tolist() == other.tolist()
        torch.testing.assert_close(
            got.entropy.view(3, WIDTH)[part], wanted.entropy.view(3, WIDTH)[part]
        )
        slot, end = int(slots[row]), int(lengths[row]) + size
        for one, other in zip(apart.slots.cache.pairs, beside.slots.cache.pairs, strict=True):
            for mine, theirs in zip(one, other, strict=True):
                torch.testing.assert_close(mine[slot, :, :end], theirs[slot, :, :end])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_a_canvas_is_whole_units(model: Any) -> None:
    with pytest.raises(ValueError, match="12 are not whole units of 5"):
        build(model, unit=5)
