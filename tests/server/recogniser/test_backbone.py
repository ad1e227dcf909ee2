"""The backbone computes what transformers computes, with adapters that stay beside its weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DiffusionGemmaForBlockDiffusion

from stream_server.recogniser.backbone import (
    FULL_SIZE,
    TARGETS,
    Backbone,
    gemma_config,
    random_backbone,
)

CPU = torch.device("cpu")
SMALL = {
    **FULL_SIZE,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 16,
    "vocab_size": 60,
    "layer_types": ["sliding_attention", "full_attention"],
}


@pytest.fixture
def backbone(published_folders: Any) -> Backbone:
    return Backbone(copy.deepcopy(published_folders.model))


def embeddings(backbone: Backbone, rows: int, count: int) -> Tensor:
    return backbone.embed(torch.randint(backbone.vocabulary, (rows, count)))


@torch.no_grad()
def test_scores_are_those_of_transformers(backbone: Backbone, published_folders: Any) -> None:
    upstream = published_folders.model
    prompt = torch.randint(backbone.vocabulary, (2, 9))
    canvas = torch.randint(backbone.vocabulary, (2, 12))
    before = torch.randn(2, 12, backbone.vocabulary) * 3
    theirs = upstream(input_ids=prompt, decoder_input_ids=canvas, self_conditioning_logits=before)
    cache, hidden = backbone.prefill(backbone.embed(prompt), torch.tensor([9, 9]))
    torch.testing.assert_close(hidden, theirs.encoder_last_hidden_state, atol=1e-5, rtol=1e-4)
    own = backbone.refine(canvas, (12, 12), cache, backbone.soften(before))
    scores = backbone.raw_scores(own)
    torch.testing.assert_close(scores, theirs.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores, backbone.head(own))
    unconditioned = backbone.refine(canvas, (12, 12), cache)
    assert not torch.allclose(scores, backbone.raw_scores(unconditioned))


@torch.no_grad()
def test_rows_of_other_lengths_do_not_change_a_row(backbone: Backbone) -> None:
    prompts = embeddings(backbone, 2, 9)
    canvas = torch.randint(backbone.vocabulary, (2, 12))
    cache, _ = backbone.prefill(prompts, torch.tensor([9, 6]))
    together = backbone.refine(canvas, (12, 7), cache)
    for row, (length, size) in enumerate([(9, 12), (6, 7)]):
        part = slice(row, row + 1)
        own, _ = backbone.prefill(prompts[part, :length], torch.tensor([length]))
        alone = backbone.refine(canvas[part, :size], (size,), own)
        torch.testing.assert_close(together[part, :size], alone, atol=1e-5, rtol=1e-4)


def test_recomputed_layers_have_the_same_gradients(backbone: Backbone) -> None:
    backbone.add_lora(2, 4.0)
    for parameter in backbone.lora().values():
        parameter.data.normal_()
        parameter.requires_grad_(True)
    prompts = embeddings(backbone, 2, 9).requires_grad_(True)
    canvas = torch.randint(backbone.vocabulary, (2, 8))
    gradients = []
    for recompute in (False, True):
        backbone.recompute = recompute
        cache, hidden = backbone.prefill(prompts, torch.tensor([9, 9]))
        loss = hidden.square().sum() + backbone.refine(canvas, (8, 8), cache).square().sum()
        wanted = [prompts, *backbone.lora().values()]
        gradients.append(torch.autograd.grad(loss, wanted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().max() > 0


def test_frozen_weights_take_no_gradient(backbone: Backbone) -> None:
    backbone.add_lora(2, 4.0)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_adapters_stand_where_their_pattern_says(backbone: Backbone) -> None:
    linears = backbone.linears()
    backbone.add_lora(2, 4.0, targets=TARGETS)
    names = {name.rpartition(".lora_")[0] for name in backbone.lora()}
    assert names == {name for name in linears if ".self_attn." in name}
    # The full layer has no v_proj, on either side.
    assert len(names) == 2 * (4 + 4 + 3)
    for name, weight in backbone.lora().items():
        outputs, inputs = linears[name.rpartition(".lora_")[0]]
        assert tuple(weight.shape) == ((2, inputs) if "lora_A" in name else (outputs, 2))


def test_one_side_and_other_modules_can_be_adapted(backbone: Backbone) -> None:
    backbone.add_lora(2, 4.0, targets=r"mlp\.(gate|up)_proj", sides=("decoder",))
    names = {name.rpartition(".lora_")[0] for name in backbone.lora()}
    assert len(names) == 6
    assert all(name.startswith("decoder.layers.") and ".mlp." in name for name in names)


def test_fresh_adapters_change_nothing(backbone: Backbone) -> None:
    prompts = embeddings(backbone, 1, 9)
    with torch.no_grad():
        _, before = backbone.prefill(prompts, torch.tensor([9]))
        backbone.add_lora(2, 4.0)
        _, after = backbone.prefill(prompts, torch.tensor([9]))
    assert torch.equal(before, after)


def test_random_weights_are_tied_and_all_there() -> None:
    backbone = random_backbone(SMALL, CPU, torch.bfloat16, seed=5)
    model = backbone.model.model
    assert not any(t.is_meta for t in backbone.state_dict().values())
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}
    assert model.decoder.embed_tokens.weight is backbone.model.lm_head.weight
    own, other = model.encoder.language_model.layers[1], model.decoder.layers[1]
    assert own.experts.gate_up_proj is other.experts.gate_up_proj
    assert own.router.scale is other.router.scale
    assert own.layer_scalar is not other.layer_scalar
    again = random_backbone(SMALL, CPU, torch.bfloat16, seed=5)
    assert all(map(torch.equal, backbone.parameters(), again.parameters()))
    another = random_backbone(SMALL, CPU, torch.bfloat16, seed=6)
    assert not torch.equal(backbone.model.lm_head.weight, another.model.lm_head.weight)


@torch.no_grad()
def test_a_random_backbone_has_the_angles_of_a_real_one() -> None:
    random = random_backbone(SMALL, CPU, torch.float32)
    with torch.random.fork_rng():
        real = Backbone(type(random.model)(gemma_config(SMALL)).eval())
    real.load_state_dict(random.state_dict())
    prompts = embeddings(real, 1, 9)
    one, _ = random.prefill(prompts, torch.tensor([9]))
    other, _ = real.prefill(prompts, torch.tensor([9]))
    assert all(map(torch.equal, one.keys, other.keys))


def test_the_full_size_is_that_of_the_published_backbone() -> None:
    with torch.device("meta"):
        model = DiffusionGemmaForBlockDiffusion(gemma_config(FULL_SIZE))
    backbone = Backbone(model)
    # 25.25 B without vision: the model card's 25.2 B.
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 25_250_986_752
    kinds = backbone.text_config.layer_types
    assert [place for place, kind in enumerate(kinds) if kind == "full_attention"] == [
        *range(5, 30, 6)
    ]
    assert backbone.text_config.final_logit_softcapping == 30
    # LoRA of rank 16 on both sides, as many as the published adapter has beside its projector.
    sizes = [size for name, size in backbone.linears().items() if ".self_attn." in name]
    assert sum(16 * sum(size) for size in sizes) == 22_978_560
