"""Driven step by step and with our masks, the decoder is still transformers' DiffusionGemma."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaRMSNorm

from stream_server.recogniser.decoder import (
    DiffusionDecoder,
    PromptCache,
    dense_experts,
    fused_norm,
)

TINY_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "position_embedding_size": 16,
}


@dataclass(frozen=True, slots=True)
class Prompts:
    """Rows of different length, and canvases for them."""

    tokens: Tensor
    lengths: Tensor
    canvas: Tensor
    canvas_lengths: Tensor
    conditioning: Tensor

    def row(self, index: int) -> Prompts:
        """One row without its padding."""
        part = slice(index, index + 1)
        length, width = int(self.lengths[index]), int(self.canvas_lengths[index])
        return Prompts(
            self.tokens[part, :length],
            self.lengths[part],
            self.canvas[part, :width],
            self.canvas_lengths[part],
            self.conditioning[part, :width],
        )


@pytest.fixture(scope="module")
def decoder(
    decoder_options: dict[str, Any], enliven: Callable[[nn.Module], None]
) -> DiffusionDecoder:
    decoder = DiffusionDecoder(decoder_options, experts="dense").eval()
    enliven(decoder)
    return decoder


@pytest.fixture(scope="module")
def stock(decoder: DiffusionDecoder, decoder_options: dict[str, Any]) -> Any:
    """Upstream's own model with the same weights: its norms, its masks, its loop over experts."""
    config = DiffusionGemmaConfig(text_config=dict(decoder_options), vision_config=TINY_VISION)
    config._attn_implementation = "eager"
    model = DiffusionGemmaForBlockDiffusion(config).eval()
    model.set_experts_implementation("eager")
    result = model.load_state_dict(decoder.model.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all("vision" in name for name in result.missing_keys)
    return model


@pytest.fixture
def prompts(decoder: DiffusionDecoder) -> Prompts:
    size = decoder.vocabulary
    return Prompts(
        tokens=torch.randint(size, (3, 11)),
        lengths=torch.tensor([7, 11, 1]),
        canvas=torch.randint(size, (3, 9)),
        canvas_lengths=torch.tensor([9, 4, 6]),
        conditioning=torch.randn(3, 9, size) * 3,
    )


def denoise(decoder: DiffusionDecoder, prompts: Prompts, conditioned: bool = True) -> Tensor:
    """Prefill and denoise."""
    cache, _ = decoder.prefill(decoder.embed(prompts.tokens), prompts.lengths)
    return decoder.denoise(
        prompts.canvas,
        prompts.canvas_lengths,
        cache,
        prompts.conditioning if conditioned else None,
        None,
    )


@torch.no_grad()
@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_scores_are_those_of_transformers(
    decoder: DiffusionDecoder, stock: Any, prompts: Prompts, index: int, conditioned: bool
) -> None:
    row = prompts.row(index)
    theirs = stock(
        input_ids=row.tokens,
        decoder_input_ids=row.canvas,
        self_conditioning_logits=row.conditioning if conditioned else None,
    )
    torch.testing.assert_close(
        denoise(decoder, row, conditioned), theirs.logits, atol=1e-5, rtol=1e-5
    )
    _, hidden = decoder.prefill(decoder.embed(row.tokens), row.lengths)
    torch.testing.assert_close(hidden, theirs.encoder_last_hidden_state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_everything_given_changes_the_scores(decoder: DiffusionDecoder, prompts: Prompts) -> None:
    row = prompts.row(0)
    scores = denoise(decoder, row)
    assert (scores - denoise(decoder, row, conditioned=False)).abs().max() > 0.1
    other = Prompts(
        row.tokens.flip(1), row.lengths, row.canvas, row.canvas_lengths, row.conditioning
    )
    assert (scores - denoise(decoder, other)).abs().max() > 0.1
    other = Prompts(
        row.tokens, row.lengths, row.canvas.flip(1), row.canvas_lengths, row.conditioning
    )
    assert (scores - denoise(decoder, other)).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("conditioned", [False, True])
def test_rows_of_different_lengths_do_not_influence_each_other(
    decoder: DiffusionDecoder, prompts: Prompts, conditioned: bool
) -> None:
    together = denoise(decoder, prompts, conditioned)
    for index, width in enumerate(prompts.canvas_lengths.tolist()):
        alone = denoise(decoder, prompts.row(index), conditioned)
        torch.testing.assert_close(together[index, :width], alone[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_is_padding_is_seen_by_nobody(decoder: DiffusionDecoder, prompts: Prompts) -> None:
    clean = denoise(decoder, prompts)
    embeddings = decoder.embed(prompts.tokens)
    behind = torch.arange(11) >= prompts.lengths[:, None]
    embeddings = embeddings.masked_fill(behind[..., None], 50.0)
    cache, _ = decoder.prefill(embeddings, prompts.lengths)
    cache = PromptCache(
        tuple(keys.masked_fill(behind[:, None, :, None], 50.0) for keys in cache.keys),
        tuple(values.masked_fill(behind[:, None, :, None], 50.0) for values in cache.values),
        cache.lengths,
    )
    outside = torch.arange(9) >= prompts.canvas_lengths[:, None]
    dirty = decoder.denoise(
        prompts.canvas.masked_fill(outside, 3),
        prompts.canvas_lengths,
        cache,
        prompts.conditioning.masked_fill(outside[..., None], 50.0),
        None,
    )
    for index, width in enumerate(prompts.canvas_lengths.tolist()):
        torch.testing.assert_close(dirty[index, :width], clean[index, :width])


@torch.no_grad()
def test_rows_without_a_last_step_are_as_if_nothing_had_been_given(
    decoder: DiffusionDecoder, prompts: Prompts
) -> None:
    cache, _ = decoder.prefill(decoder.embed(prompts.tokens), prompts.lengths)
    mixed = decoder.denoise(
        prompts.canvas,
        prompts.canvas_lengths,
        cache,
        prompts.conditioning,
        torch.tensor([True, False, True]),
    )
    with_all = denoise(decoder, prompts)
    without = denoise(decoder, prompts, conditioned=False)
    torch.testing.assert_close(mixed, torch.stack([with_all[0], without[1], with_all[2]]))


@torch.no_grad()
def test_prompts_are_causal(decoder: DiffusionDecoder, prompts: Prompts) -> None:
    embeddings = decoder.embed(prompts.tokens[:1])
    lengths = torch.tensor([11])
    before, _ = decoder.prefill(embeddings, lengths)
    embeddings[:, 6:] = 1.0
    after, _ = decoder.prefill(embeddings, lengths)
    assert torch.equal(before.keys[-1][:, :, :6], after.keys[-1][:, :, :6])
    assert not torch.equal(before.keys[-1][:, :, 6:], after.keys[-1][:, :, 6:])


@torch.no_grad()
def test_texts_are_read_behind_a_prompt_as_a_plain_loop_does(decoder: DiffusionDecoder) -> None:
    begin, end, texts = 5, 1, [[20, 21, 22], [23], []]
    before = torch.randint(8, decoder.vocabulary, (1, 6))
    prompt = torch.cat([before, torch.tensor([[begin]])], dim=1)
    cache, _ = decoder.prefill(decoder.embed(prompt), torch.tensor([7]))
    expected = []
    for text in texts:
        whole = torch.cat([prompt, torch.tensor([text], dtype=torch.long)], dim=1)
        _, hidden = decoder.prefill(decoder.embed(whole), torch.tensor([whole.shape[1]]))
        logs = decoder.head(hidden[0, 6:]).log_softmax(dim=-1)
        targets = torch.tensor([*text, end])
        expected.append(float(logs[torch.arange(len(targets)), targets].sum()))
    assert decoder.read(texts, cache, begin, end) == pytest.approx(expected, abs=1e-4)
    assert decoder.read(texts[1:2], cache, begin, end) == pytest.approx(expected[1:2], abs=1e-4)


@torch.no_grad()
def test_denoising_leaves_the_prompts_as_they_are(
    decoder: DiffusionDecoder, prompts: Prompts
) -> None:
    cache, _ = decoder.prefill(decoder.embed(prompts.tokens), prompts.lengths)
    before = [part.clone() for part in (*cache.keys, *cache.values)]
    for _ in range(2):
        decoder.denoise(prompts.canvas, prompts.canvas_lengths, cache, None, None)
    assert all(map(torch.equal, before, (*cache.keys, *cache.values)))


@torch.no_grad()
def test_a_cache_taken_apart_and_put_together_is_the_same(
    decoder: DiffusionDecoder, prompts: Prompts
) -> None:
    cache, _ = decoder.prefill(decoder.embed(prompts.tokens), prompts.lengths)
    rows = [cache.row(index) for index in range(3)]
    assert [row.keys[0].shape[2] for row in rows] == prompts.lengths.tolist()
    merged = PromptCache.merge(rows)
    assert merged.lengths.tolist() == prompts.lengths.tolist()
    for before, after in zip(
        (*cache.keys, *cache.values), (*merged.keys, *merged.values), strict=True
    ):
        for index, length in enumerate(prompts.lengths.tolist()):
            assert torch.equal(before[index, :, :length], after[index, :, :length])
            assert not after[index, :, length:].any()
    swapped = PromptCache.merge([rows[2], rows[0]])
    assert swapped.keys[0].shape[2] == 7
    again = swapped.row(1)
    assert all(map(torch.equal, again.keys, rows[0].keys))
    assert all(map(torch.equal, again.values, rows[0].values))


def test_the_two_halves_and_the_head_share_their_weights(decoder: DiffusionDecoder) -> None:
    encoder = decoder.model.model.encoder.language_model
    own = dict(decoder.model.model.decoder.named_parameters())
    shared = dict(encoder.named_parameters())
    only_decoder = set(own) - set(shared)
    assert set(shared) <= set(own)
    assert {name.split(".")[0] for name in only_decoder} == {"self_conditioning"}
    for name, parameter in shared.items():
        assert parameter.data_ptr() == own[name].data_ptr(), name
    assert decoder.model.lm_head.weight.data_ptr() == encoder.embed_tokens.weight.data_ptr()
    unique = {parameter.data_ptr() for parameter in decoder.parameters()}
    assert len(unique) == len(own)


def test_shared_weights_stay_shared_when_loaded_and_moved(decoder_options: dict[str, Any]) -> None:
    decoder = DiffusionDecoder(decoder_options, experts="dense")
    decoder.load_state_dict(decoder.state_dict())
    decoder.to(torch.bfloat16)
    model = decoder.model
    for name, parameter in model.model.encoder.language_model.named_parameters():
        assert parameter.data_ptr() == model.model.decoder.get_parameter(name).data_ptr()
    assert model.lm_head.weight.data_ptr() == model.model.decoder.embed_tokens.weight.data_ptr()


@torch.no_grad()
def test_dense_experts_mix_as_the_stock_loop_does(stock: Any) -> None:
    experts = stock.model.decoder.layers[0].experts
    hidden = torch.randn(20, 32)
    weights, index = torch.rand(20, 4).softmax(dim=-1).topk(2, dim=-1)
    weights = weights * 1.7
    theirs = experts(hidden, index, weights)
    torch.testing.assert_close(
        dense_experts(experts, hidden, index, weights), theirs, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
def test_the_choice_of_experts_changes_nothing(
    decoder: DiffusionDecoder, decoder_options: dict[str, Any], prompts: Prompts, experts: str
) -> None:
    other = DiffusionDecoder(decoder_options, experts=experts).eval()
    other.load_state_dict(decoder.state_dict())
    torch.testing.assert_close(denoise(other, prompts), denoise(decoder, prompts))


@torch.no_grad()
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02), (torch.float16, 0.002)]
)
def test_the_fused_norm_is_the_stock_norm(
    scaled: bool, dtype: torch.dtype, tolerance: float
) -> None:
    norm = DiffusionGemmaRMSNorm(32, eps=1e-6, with_scale=scaled)
    if scaled:
        norm.weight.copy_(torch.randn(32))
    hidden = (torch.randn(5, 32) * 3).to(dtype)
    norm = norm.to(dtype)
    fused = fused_norm(norm, hidden)
    assert fused.dtype is dtype
    torch.testing.assert_close(fused, norm(hidden), atol=tolerance, rtol=tolerance)


def test_every_norm_of_the_decoder_is_fused(decoder: DiffusionDecoder) -> None:
    norms = [m for m in decoder.modules() if isinstance(m, DiffusionGemmaRMSNorm)]
    assert len(norms) > 20
    assert all(norm.forward.__func__ is fused_norm for norm in norms)
    assert all(norm.forward.__self__ is norm for norm in norms)


def test_there_is_no_vision(decoder: DiffusionDecoder) -> None:
    assert not [name for name in decoder.state_dict() if "vision" in name]


def test_embeddings_and_head_have_the_scales_of_the_decoder(decoder: DiffusionDecoder) -> None:
    tokens = torch.tensor([[3, 5]])
    weight = decoder.model.lm_head.weight
    torch.testing.assert_close(decoder.embed(tokens), weight[tokens] * 32**0.5)
    scores = decoder.head(torch.randn(2, 32) * 1e4)
    assert scores.dtype is torch.float32
    assert scores.abs().max() <= decoder.text_config.final_logit_softcapping == 30.0


@torch.no_grad()
def test_norms_for_training_start_attention_at_unit_variance(
    decoder_options: dict[str, Any],
) -> None:
    decoder = DiffusionDecoder(decoder_options, experts="dense")
    decoder.scale_for_training()
    for half in (decoder.model.model.encoder.language_model, decoder.model.model.decoder):
        for layer in half.layers:
            attention = layer.self_attn
            queries = attention.q_norm(torch.randn(500, attention.head_dim))
            keys = attention.k_norm(torch.randn(500, attention.head_dim))
            assert 0.8 < float((queries @ keys.T).var()) < 1.2
            assert layer.post_attention_layernorm.weight.tolist() == [0.5] * 32
            assert layer.input_layernorm.weight.tolist() == [1.0] * 32
