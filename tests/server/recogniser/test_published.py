"""A denoising step of the published model is transformers' own, with the same weights and noise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSamplerConfig,
)

from stream_server.recogniser import published
from stream_server.recogniser.alignment import align, greedy
from stream_server.recogniser.backbone import Backbone
from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.denoise import SamplerConfig, StepInput, random_tokens, temperatures
from stream_server.recogniser.encoder import WhisperAudioEncoder
from stream_server.recogniser.projector import ProjectorConfig
from stream_server.recogniser.published import (
    HeadFrames,
    LoraShape,
    PublishedConfig,
    PublishedModel,
)

# Upstream's sampling loop imports PyTorch's compiler, which is not free of old calls.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

CPU = torch.device("cpu")
WIDTH, STEPS = 20, 8
WHISPER = {
    "d_model": 24,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "num_mel_bins": 80,
}
PROMPTS = [([2, 9], [11, 12, 13]), ([2, 9], [14])]


@pytest.fixture
def make(published_folders: Any) -> Callable[..., PublishedModel]:
    """Builds a model with adapters that matter; the entropy bound may be given."""

    def build(bound: float = 0.1) -> PublishedModel:
        encoder = WhisperAudioEncoder(WHISPER).eval()
        config = PublishedConfig(
            "toy",
            ProjectorConfig(24, 20, 32),
            LoraShape(4, 8.0),
            sampler=SamplerConfig(entropy_bound=bound),
        )
        backbone = Backbone(copy.deepcopy(published_folders.model))
        model = PublishedModel(config, encoder, backbone, PROMPTS).eval()
        for parameter in model.decoder.lora().values():
            parameter.data.normal_(std=0.2)
        return model

    return build


@pytest.fixture
def model(make: Callable[..., PublishedModel]) -> PublishedModel:
    return make()


def sound(rows: int, samples: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, samples) * 0.1, torch.full((rows,), samples)


@torch.inference_mode()
def decode(
    model: PublishedModel, cache: PromptCache, seeds: list[int], sizes: tuple[int, ...], steps: int
) -> list[tuple[Tensor, Tensor]]:
    """Run ``steps`` steps; the canvas and the best tokens after each."""
    chances = tuple(torch.Generator().manual_seed(seed) for seed in seeds)
    canvas = torch.zeros(len(sizes), max(sizes), dtype=torch.long)
    for row, size in enumerate(sizes):
        canvas[row, :size] = random_tokens(chances[row], size, model.vocabulary)
    left = torch.zeros(*canvas.shape, model.conditioning_size)
    seen = []
    for step in range(steps):
        heat = temperatures([step] * len(sizes), [steps] * len(sizes), model.config.sampler, CPU)
        rows = StepInput(canvas, sizes, left, (step > 0,) * len(sizes), heat, chances)
        result = model.step(rows, cache)
        canvas, left = result.canvas, result.conditioning
        seen.append((canvas, result.argmax))
    return seen


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(3))
def test_text_is_generated_as_transformers_generates_it(
    seed: int, make: Callable[..., PublishedModel], published_folders: Any
) -> None:
    # Few: each makes differences of rounding some ten times as large, and after eight a token may
    # go to another expert.
    steps = 4
    model = make(bound=6.0)
    for parameter in model.decoder.lora().values():
        parameter.zero_()
    prompt = torch.randint(model.vocabulary, (1, 30))
    cache, _ = model.decoder.prefill(model.decoder.embed(prompt), torch.tensor([30]))
    own = decode(model, cache, [seed], (WIDTH,), steps)
    upstream = copy.deepcopy(published_folders.model)
    upstream.config.canvas_length = WIDTH
    torch.manual_seed(seed)
    said = upstream.generate(
        prompt,
        max_new_tokens=WIDTH,
        max_denoising_steps=steps,
        sampler_config=EntropyBoundSamplerConfig(6.0),
        stability_threshold=9,
        eos_token_id=[],
        disable_compile=True,
    )
    assert torch.equal(said.sequences[0, 30:], own[-1][1][0])


@torch.inference_mode()
@pytest.mark.parametrize("bound", [0.1, 6.0, 200.0])
def test_audio_is_refined_as_transformers_refines_it(
    bound: float, make: Callable[..., PublishedModel]
) -> None:
    model = make(bound)
    pcm, lengths = sound(1, 32_000)
    cache, _ = model.hear(pcm, lengths, torch.tensor([0]))
    own = decode(model, cache, [7], (WIDTH,), STEPS)
    upstream = model.decoder.model
    for module in upstream.modules():
        # Its own norms, not the fused ones.
        module.__dict__.pop("forward", None)
    embeddings, _ = model.prompt(model.listen(pcm, lengths), [0])
    stack = upstream.model.encoder.language_model
    past = DynamicCache(config=upstream.config.text_config)
    past = stack(inputs_embeds=embeddings, past_key_values=past).past_key_values
    upstream.config.canvas_length = WIDTH
    config, _ = upstream._prepare_generation_config(
        None,
        max_denoising_steps=STEPS,
        sampler_config=EntropyBoundSamplerConfig(bound),
    )
    sampler = upstream._prepare_sampler(config)
    torch.manual_seed(7)
    canvas = best = sampler.initialize_canvas(1, CPU)
    scores, kept = None, 0
    count = embeddings.shape[1]
    for step in range(STEPS):
        canvas, best, scores, _ = upstream._denoising_step(
            decoder_forward=upstream.forward,
            current_canvas=canvas,
            argmax_canvas=best,
            input_ids=None,
            decoder_position_ids=torch.arange(count, count + WIDTH)[None],
            self_conditioning_logits=scores,
            mask_mapping={"full_attention": None, "sliding_attention": None},
            past_key_values=past,
            finished_denoising=torch.zeros(1, dtype=torch.bool),
            cur_step=STEPS - step,
            sampler=sampler,
            logits_processor=upstream._prepare_logits_processor(config, None),
            diffusion_stopping_criteria=None,
        )
        assert torch.equal(canvas, own[step][0]), step
        assert torch.equal(best, own[step][1]), step
        kept += int(sampler.accepted_token_mask.sum())
    # The bounds differ in what they let through, so both ways of a position were compared.
    assert {0.1: STEPS, 200.0: STEPS * WIDTH}.get(bound, kept) == kept
    assert bound != 6.0 or STEPS < kept < STEPS * WIDTH


@torch.inference_mode()
def test_slices_and_neighbours_change_nothing(
    make: Callable[..., PublishedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(6.0)
    pcm, lengths = sound(5, 20_000)
    numbers = torch.tensor([0, 1, 0, 1, 1])
    cache, _ = model.hear(pcm, lengths, numbers)
    sizes = (20, 20, 12, 12, 20)
    whole = decode(model, cache, [1, 2, 3, 4, 5], sizes, 3)
    monkeypatch.setattr(published, "SLICE", 21)
    for one, other in zip(whole, decode(model, cache, [1, 2, 3, 4, 5], sizes, 3), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    for row in range(5):
        alone = decode(model, cache.row(row), [row + 1], sizes[row : row + 1], 3)
        assert torch.equal(alone[-1][1][0], whole[-1][1][row, : sizes[row]])


def test_rows_of_one_size_share_a_slice(
    model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "SLICE", 64)
    groups = [list(group) for group in model._groups((32, 32, 32, 16, 16, 96, 96, 32))]
    assert groups == [[0, 1], [2], [3, 4], [5], [6], [7]]


@torch.inference_mode()
def test_statistics_are_those_of_the_scores(model: PublishedModel) -> None:
    pcm, lengths = sound(1, 16_000)
    cache, _ = model.hear(pcm, lengths, torch.tensor([0]))
    canvas = torch.randint(model.vocabulary, (1, WIDTH))
    heat = torch.tensor([0.7])
    left = torch.zeros(1, WIDTH, model.conditioning_size)
    rows = StepInput(canvas, (WIDTH,), left, (False,), heat, (torch.Generator(),))
    result = model.step(rows, cache)
    scores = model.decoder.raw_scores(model.decoder.refine(canvas, (WIDTH,), cache))
    torch.testing.assert_close(result.probability, scores.softmax(-1).amax(-1))
    shares = (scores / 0.7).softmax(-1)
    torch.testing.assert_close(result.entropy, torch.special.entr(shares).sum(-1))
    assert torch.equal(result.argmax, scores.argmax(-1))
    torch.testing.assert_close(result.conditioning, model.decoder.soften(scores / 0.7))


@torch.inference_mode()
def test_every_utterance_is_thirty_seconds_to_the_model(model: PublishedModel) -> None:
    pcm, lengths = sound(2, 16_000)
    lengths[1] = 8_000
    pcm[1, 8_000:] = 0
    tokens = model.listen(pcm, lengths)
    assert tokens.shape == (2, 188, 32)
    embeddings, counts = model.prompt(tokens, [0, 1])
    assert counts.tolist() == [2 + 188 + 3, 2 + 188 + 1]
    torch.testing.assert_close(embeddings[0, 2:190], tokens[0])
    torch.testing.assert_close(embeddings[1, 190], model.decoder.embed(torch.tensor(14)))
    assert not embeddings[1, 191:].any()
    _, frames = model.hear(pcm, lengths, torch.tensor([0, 1]))
    assert model.samples_per_ctc_frame == 2560
    assert [len(each._best) for each in frames] == [7, 4]


@torch.inference_mode()
def test_a_prompt_may_be_as_long_as_its_audio(model: PublishedModel) -> None:
    model.config = replace(model.config, silence_seconds=0.5)
    pcm, lengths = sound(2, 16_000)
    lengths[1] = 8_000
    tokens = model.listen(pcm, lengths)
    embeddings, counts = model.prompt(tokens, [0, 1], lengths.tolist())
    assert counts.tolist() == [2 + 10 + 3, 2 + 7 + 1], "a token is 0.16 s"
    torch.testing.assert_close(embeddings[1, 2:9], tokens[1, :7])
    torch.testing.assert_close(embeddings[1, 9], model.decoder.embed(torch.tensor(14)))
    cache, _ = model.hear(pcm, lengths, torch.tensor([0, 1]))
    assert cache.lengths.tolist() == counts.tolist()
    whole = model.prompt(tokens[:1], [0], [30 * 16_000])[1]
    assert whole.tolist() == [2 + 188 + 3], "no more than the window has"


@torch.inference_mode()
def test_ctc_through_the_head_is_that_of_all_scores(model: PublishedModel) -> None:
    tokens = torch.randn(30, 32) * 3
    best, norm = model.decoder.read_head(tokens)
    frames = HeadFrames(model.decoder, tokens, best.tolist(), norm, blank=0)
    logs = model.decoder.head(tokens).log_softmax(-1).numpy()
    assert frames.draft() == greedy(logs)
    assert frames.evidence(frames.draft(), 16, 1.0) is None
    text = [5, 6, 6, 7, 0]
    own, whole = frames.align(text), align(logs, text)
    assert own is not None
    assert whole is not None
    assert [(s.start, s.end) for s in own] == [(s.start, s.end) for s in whole]
    np.testing.assert_allclose([s.score for s in own], [s.score for s in whole], rtol=1e-3)
    assert frames.align([5] * 30) is None
    assert frames.align([]) == []


@torch.inference_mode()
def test_frames_of_many_rows_are_read_together(
    model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "SLICE", 7)
    tokens = torch.randn(3, 188, 32) * 3
    hop = model.samples_per_ctc_frame
    sizes: list[int] = []

    def read(hidden: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(hidden))
        return model.decoder.read_head(hidden)

    lengths = [5 * hop, 8 * hop - 1, 999 * hop]
    together = model.frames(tokens, lengths, read)
    assert sizes == [7] * (201 // 7) + [201 % 7]
    for row, (frames, count) in enumerate(zip(together, (5, 8, 188), strict=True)):
        logs = model.decoder.head(tokens[row, :count]).log_softmax(-1).numpy()
        assert frames.draft() == greedy(logs)
        own, whole = frames.align([5, 6]), align(logs, [5, 6])
        assert own is not None
        assert whole is not None
        assert [(s.start, s.end) for s in own] == [(s.start, s.end) for s in whole]
        np.testing.assert_allclose([s.score for s in own], [s.score for s in whole], rtol=1e-3)


def test_half_precision_stays_where_it_is(make: Callable[..., PublishedModel]) -> None:
    model = make()
    model.encoder.to(torch.bfloat16)
    model.decoder.to(torch.bfloat16)
    with torch.inference_mode():
        cache, _ = model.hear(*sound(1, 16_000), torch.tensor([0]))
        seen = decode(model, cache, [1], (WIDTH,), 2)
    assert cache.keys[0].dtype is torch.bfloat16
    assert model.projector.linear.weight.dtype is torch.float32
    assert seen[-1][0].max() < model.vocabulary


def test_what_is_trained_is_projector_and_lora(model: PublishedModel) -> None:
    names = {name.split(".")[0] for name in model.trained()}
    assert names == {"projector", "lora"}
    frozen = [*model.encoder.parameters(), model.decoder.model.lm_head.weight]
    assert not any(parameter.requires_grad for parameter in frozen)
    sampler = replace(model.config.sampler, entropy_bound=0.2)
    assert replace(model.config, sampler=sampler).languages == ("en", "de", "fr", "es", "hi", "zh")
