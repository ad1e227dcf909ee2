"""The frozen backbone of the published model: DiffusionGemma at full size, LoRA beside it.

Differences from :class:`DiffusionDecoder`, which it extends: weights come from elsewhere and stay
in their precision (bfloat16); rows of one length run without masks, which is what the fast
attention kernels want; self-conditioning takes soft embeddings, [hidden] for each position
instead of [vocabulary]; and layers can be recomputed in the backward pass.

LoRA is never merged. Encoder and decoder have the same weights, tied, and different adapters: a
merge of both into the one tensor would spoil both.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, DynamicCache
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaRMSNorm

from stream_server.recogniser.decoder import (
    TINY_VISION,
    DiffusionDecoder,
    PromptCache,
    fused_norm,
)

SIDES = {"encoder": "model.encoder.language_model.", "decoder": "model.decoder."}
"""Where in DiffusionGemma the two stacks of layers are."""
TARGETS = r"self_attn\.(q|k|v|o)_proj"
"""What LoRA adapts, within a layer. Plain names would hit the vision tower's layers too."""
FULL_SIZE: Mapping[str, Any] = {
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
    "max_position_embeddings": 262_144,
    "vocab_size": 262_144,
}
"""``text_config`` of google/diffusiongemma-26B-A4B-it; the class's own defaults are others."""


class _Tap:
    """A cache of one layer that hands out what is written into it."""

    keys: Tensor
    values: Tensor

    def update(self, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        """Take the keys and values of a layer."""
        self.keys, self.values = keys, values
        return keys, values


class Backbone(DiffusionDecoder):
    """A DiffusionGemma that was loaded or built elsewhere; its vision tower is dropped."""

    def __init__(self, model: DiffusionGemmaForBlockDiffusion) -> None:
        nn.Module.__init__(self)
        self.model = model
        self.model.model.encoder.vision_tower = None
        self.model.model.encoder.embed_vision = None
        for module in self.model.modules():
            if isinstance(module, DiffusionGemmaRMSNorm):
                module.forward = MethodType(fused_norm, module)
        self.model.requires_grad_(False)
        self.text_config = self.model.config.text_config
        self.hidden_size: int = self.text_config.hidden_size
        self.vocabulary: int = self.text_config.vocab_size
        self.recompute = False
        """Whether layers are computed again in the backward pass instead of being kept."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        dtype: torch.dtype = self.model.lm_head.weight.dtype
        return dtype

    def add_lora(
        self,
        rank: int,
        alpha: float,
        targets: str = TARGETS,
        sides: Collection[str] = tuple(SIDES),
    ) -> None:
        """Put fresh adapters beside layers.

        Args:
            rank: of the update.
            alpha: the update is scaled by ``alpha / rank``.
            targets: regular expression of a linear layer's name within its layer.
            sides: of :data:`SIDES`, which stacks have adapters.
        """
        places = "|".join(re.escape(SIDES[side]) for side in sides)
        config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=rf"({places})layers\.\d+\.({targets})"
        )
        inject_adapter_in_model(config, self.model)
        for parameter in self.lora().values():
            parameter.requires_grad_(False)

    def lora(self) -> dict[str, nn.Parameter]:
        """Return LoRA's weights: ``SIDE.layers.N.MODULE.lora_A.weight`` and ``lora_B``."""
        found = {}
        for side, place in SIDES.items():
            for name, module in self.model.get_submodule(place.rstrip(".")).named_modules():
                if isinstance(module, LoraLayer):
                    for half in ("lora_A", "lora_B"):
                        weight = getattr(module, half)["default"].weight
                        found[f"{side}.{name}.{half}.weight"] = weight
        return found

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return output and input size of each layer that LoRA may stand beside, by name."""
        found = {}
        for side, place in SIDES.items():
            for name, module in self.model.get_submodule(place.rstrip(".")).named_modules():
                if isinstance(module, nn.Linear) and name.startswith("layers."):
                    found[f"{side}.{name}"] = (module.out_features, module.in_features)
        return found

    def raw_scores(self, hidden: Tensor) -> Tensor:
        """Return scores [..., vocabulary] in float32, soft-capped in place: no gradient."""
        scores = self.model.lm_head(hidden).float()
        cap: float = self.model.final_logit_softcapping
        capped: Tensor = scores.div_(cap).tanh_().mul_(cap)
        return capped

    def read_head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest tokens and the logarithms of the summed exponentials, [...] each.

        In place where it can be: at full size the scores of one frame are a megabyte.

        Args:
            hidden: [..., hidden].
        """
        scores = self.raw_scores(hidden)
        peak, best = scores.max(dim=-1)
        return best, scores.sub_(peak[..., None]).exp_().sum(dim=-1).log_().add_(peak)

    def soften(self, scores: Tensor) -> Tensor:
        """Return soft embeddings [..., hidden] of temperature-scaled scores, as upstream does."""
        table = self.model.model.decoder.embed_tokens
        shares = scores.to(self.dtype).softmax(dim=-1, dtype=torch.float32).to(self.dtype)
        soft: Tensor = torch.matmul(shares, table.weight) * table.embed_scale.to(self.dtype)
        return soft

    def prefill(self, embeddings: Tensor, lengths: Tensor) -> tuple[PromptCache, Tensor]:
        """Run prompts through the causal half; see :meth:`DiffusionDecoder.prefill`."""
        stack = self.model.model.encoder.language_model
        count = embeddings.shape[1]
        positions = torch.arange(count, device=embeddings.device)
        mask = None
        if bool((lengths < count).any()):
            causal = positions[None, :] <= positions[:, None]
            mask = (causal[None] & (positions[None, None] < lengths[:, None, None]))[:, None]
        hidden = embeddings.to(self.dtype)
        angles = self._angles(stack, hidden, positions[None])
        keys, values = [], []

        def run(layer: Any, hidden: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
            tap = _Tap()
            hidden = layer(
                hidden,
                position_embeddings=angles[kind],
                attention_mask=mask,
                position_ids=positions[None],
                past_key_values=tap,
            )
            return hidden, tap.keys, tap.values

        for layer, kind in zip(stack.layers, self.text_config.layer_types, strict=True):
            hidden, key, value = self._call(run, layer, hidden, kind)
            keys.append(key)
            values.append(value)
        return PromptCache(tuple(keys), tuple(values), lengths), stack.norm(hidden)

    def refine(
        self,
        canvas: Tensor,
        sizes: tuple[int, ...],
        cache: PromptCache,
        soft: Tensor | None = None,
    ) -> Tensor:
        """Run the denoiser over canvases, up to but without the head.

        Args:
            canvas: [rows, canvas], tokens.
            sizes: canvas positions of each row; those behind are padding and seen by nobody.
            cache: the prompts.
            soft: [rows, canvas, hidden], the last step's soft embeddings; zero where none.

        Returns:
            Hidden states [rows, canvas, hidden].
        """
        stack = self.model.model.decoder
        width, prompt = canvas.shape[1], cache.keys[0].shape[2]
        positions = cache.lengths[:, None] + torch.arange(width, device=canvas.device)[None]
        mask = self._canvas_mask(sizes, width, prompt, cache.lengths)
        past = DynamicCache()
        for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
            past.update(keys, values, layer)
        hidden = stack.embed_tokens(canvas)
        soft = torch.zeros_like(hidden) if soft is None else soft.to(hidden.dtype)
        hidden = stack.self_conditioning(hidden, soft)
        angles = self._angles(stack, hidden, positions)

        def run(layer: Any, hidden: Tensor, kind: str) -> Tensor:
            result: Tensor = layer.forward(
                hidden,
                position_embeddings=angles[kind],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=past,
            )
            return result

        for layer, kind in zip(stack.layers, self.text_config.layer_types, strict=True):
            hidden = self._call(run, layer, hidden, kind)
        refined: Tensor = stack.norm(hidden)
        return refined

    def _canvas_mask(
        self, sizes: tuple[int, ...], width: int, prompt: int, lengths: Tensor
    ) -> Tensor | None:
        if min(sizes) == width and not bool((lengths < prompt).any()):
            return None
        device = lengths.device
        ends = torch.tensor(sizes, device=device)
        seen = torch.cat(
            [
                torch.arange(prompt, device=device)[None] < lengths[:, None],
                torch.arange(width, device=device)[None] < ends[:, None],
            ],
            dim=1,
        )
        return seen[:, None, None].expand(len(sizes), 1, width, prompt + width)

    def _angles(self, stack: Any, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
        kinds = set(self.text_config.layer_types)
        return {kind: stack.rotary_emb(hidden, positions, kind) for kind in kinds}

    def _call(self, run: Any, layer: Any, hidden: Tensor, kind: str) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(run, layer, hidden, kind, use_reentrant=False)
        return run(layer, hidden, kind)


def gemma_config(options: Mapping[str, Any]) -> DiffusionGemmaConfig:
    """Return the configuration of a backbone without vision."""
    config = DiffusionGemmaConfig(text_config=dict(options), vision_config=TINY_VISION)
    config._attn_implementation = "sdpa"
    return config


def random_backbone(
    options: Mapping[str, Any], device: torch.device, dtype: torch.dtype, seed: int = 0
) -> Backbone:
    """Build a backbone with random weights; see :func:`random_gemma`."""
    return Backbone(random_gemma(options, device, dtype, seed))


def random_gemma(
    options: Mapping[str, Any], device: torch.device, dtype: torch.dtype, seed: int = 0
) -> DiffusionGemmaForBlockDiffusion:
    """Build transformers' own model with random weights where it is to stay, without vision.

    Nothing is built on the CPU first: 25 B parameters are drawn on the device in seconds, and
    tensors that are tied are made once. For measurements, tests and rehearsals.
    """
    config = gemma_config(options)
    with torch.device("meta"):
        model = DiffusionGemmaForBlockDiffusion(config)
    model.model.encoder.vision_tower = None
    model.model.encoder.embed_vision = None
    chance = torch.Generator(device).manual_seed(seed)
    # The old one is kept with the new: an id that is free is used again.
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                made[id(parameter)] = (parameter, _draw(parameter, device, dtype, chance))
            module._parameters[name] = made[id(parameter)][1]
        for name, buffer in module._buffers.items():
            if buffer is not None and name == "embed_scale":
                scale = torch.tensor(config.text_config.hidden_size**0.5, device=device)
                module._buffers[name] = scale
            elif buffer is not None and name == "layer_scalar":
                module._buffers[name] = torch.ones(1, device=device, dtype=dtype)
    for stack in (model.model.encoder.language_model, model.model.decoder):
        # Its angles are computed in its constructor.
        stack.rotary_emb = type(stack.rotary_emb)(config.text_config).to(device)
        for layer in stack.layers:
            # Attention is unscaled; so its scores have unit variance and it is not saturated.
            for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
                norm.weight.data.fill_(norm.weight.shape[0] ** -0.25)
    left = [name for name, t in model.state_dict().items() if t.is_meta]
    if left:
        raise RuntimeError(f"not drawn: {left[:5]}")
    return model.eval().requires_grad_(False)


def _draw(
    like: Tensor, device: torch.device, dtype: torch.dtype, chance: torch.Generator
) -> nn.Parameter:
    tensor = torch.empty(like.shape, device=device, dtype=dtype)
    if like.ndim >= 2:
        tensor.normal_(std=0.02, generator=chance)
    else:
        # Norms and scales.
        tensor.fill_(1.0)
    return nn.Parameter(tensor, requires_grad=False)


__all__ = [
    "FULL_SIZE",
    "SIDES",
    "TARGETS",
    "Backbone",
    "gemma_config",
    "random_backbone",
    "random_gemma",
]
