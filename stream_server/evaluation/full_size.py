"""DiffusionGemma at its published size with random weights: what speed is measured on.

Random weights spread the routing over all experts, which is the worst case for the bytes read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

TEXT: dict[str, Any] = {
    "hidden_size": 2816,
    "intermediate_size": 2112,
    "num_hidden_layers": 30,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "global_head_dim": 512,
    "num_global_key_value_heads": 2,
    "sliding_window": 1024,
    "num_experts": 128,
    "top_k_experts": 8,
    "moe_intermediate_size": 704,
    "max_position_embeddings": 262144,
    "vocab_size": 262144,
    "final_logit_softcapping": 30.0,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
}
"""The text configuration of google/diffusiongemma-26B-A4B-it."""
_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "position_embedding_size": 16,
}


def build_random(
    text: dict[str, Any], device: torch.device, dtype: torch.dtype, seed: int = 0
) -> Any:
    """Return transformers' model with random weights, made on ``device`` and nowhere else."""
    config = DiffusionGemmaConfig(text_config=dict(text), vision_config=dict(_VISION))
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = DiffusionGemmaForBlockDiffusion(config)
    model.model.encoder.vision_tower = None
    model.model.encoder.embed_vision = None
    halves = (model.model.encoder.language_model, model.model.decoder)
    for half in halves:
        half.rotary_emb = type(half.rotary_emb)(model.config.text_config).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    made: dict[str, nn.Parameter] = {}
    for prefix, root in (("", halves[0]), ("", halves[1]), ("lm_head.", model.lm_head)):
        for name, parameter in list(root.named_parameters()):
            # The halves share every weight that they have in common, and the head the embedding.
            key = "embed_tokens.weight" if prefix else name
            if key not in made:
                made[key] = _random(key, parameter, device, dtype, generator)
            _put(root, name, made[key])
    for module in model.modules():
        if "embed_scale" in module._buffers:
            module.embed_scale = torch.tensor(module.scalar_embed_scale, device=device)
        if "layer_scalar" in module._buffers:
            module.layer_scalar = torch.ones(1, device=device, dtype=dtype)
    left = [name for name, each in model.named_parameters() if each.is_meta]
    left += [name for name, each in model.named_buffers() if each.is_meta]
    if left:
        raise RuntimeError(f"not filled: {left[:5]}")
    model.set_experts_implementation("grouped_mm")
    return model.eval().requires_grad_(False)


def _random(
    name: str, like: Tensor, device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> nn.Parameter:
    value = torch.empty(like.shape, device=device, dtype=dtype)
    if name.endswith(("norm.weight", "scale")) or "layernorm" in name:
        value.fill_(1.0)
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            # Attention has no scale of its own: scores of about unit variance.
            value.fill_(like.shape[0] ** -0.25)
    else:
        value.normal_(0.0, 0.02, generator=generator)
    return nn.Parameter(value, requires_grad=False)


def _put(root: nn.Module, name: str, value: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(path), leaf, value)


__all__ = ["TEXT", "build_random"]
