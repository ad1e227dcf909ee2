"""The diffusion decoder: transformers' DiffusionGemma, driven one denoising step at a time.

``generate`` takes no embeddings and cannot be stepped, so the two halves are called directly:
the causal encoder writes the prompt's keys and values once, the bidirectional decoder reads them
at every step. The network has no time input: any partly right canvas is an ordinary state.

Differences from ``DiffusionGemmaForBlockDiffusion``: no vision tower; masks are ours, so that
rows of different prompt and canvas lengths share a batch; for models trained from scratch the
norms start at a scale at which unscaled attention (``scaling = 1``) is not saturated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, DynamicCache
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaRMSNorm

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


def dense_experts(
    experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Run every expert on every token and mix: for a handful of small experts.

    The stock choices sort tokens by expert or loop over experts with a host synchronisation each;
    with four experts of which two are used, doing twice the arithmetic is faster on a CPU and a
    GPU alike, and a token's result cannot depend on its neighbours.

    Args:
        experts: holds ``gate_up_proj`` [experts, 2 * inner, hidden] and ``down_proj``.
        hidden: [tokens, hidden].
        top_k_index: [tokens, k].
        top_k_weights: [tokens, k].
    """
    weights = torch.zeros(
        hidden.shape[0], experts.num_experts, dtype=top_k_weights.dtype, device=hidden.device
    ).scatter(1, top_k_index, top_k_weights)
    gate, up = torch.matmul(hidden, experts.gate_up_proj.transpose(1, 2)).chunk(2, dim=-1)
    inner = experts.act_fn(gate) * up
    inner = inner * weights.t()[..., None].to(inner.dtype)
    mixed: Tensor = torch.matmul(inner, experts.down_proj.transpose(1, 2)).sum(dim=0)
    return mixed.to(hidden.dtype)


def fused_norm(norm: Any, hidden: Tensor) -> Tensor:
    """``DiffusionGemmaRMSNorm`` as one kernel instead of eight; the arithmetic is float32 too."""
    weight = norm.weight.to(hidden.dtype) if norm.with_scale else None
    return nn.functional.rms_norm(hidden, (hidden.shape[-1],), weight, norm.eps)


@dataclass(frozen=True, slots=True)
class PromptCache:
    """Keys and values of prompts: one pair a layer, each [rows, heads, positions, head size]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    lengths: Tensor
    """[rows], positions of each row; what lies behind is padding."""

    def row(self, index: int) -> PromptCache:
        """Return one row without its padding."""
        length = int(self.lengths[index])
        part = slice(index, index + 1)
        return PromptCache(
            tuple(keys[part, :, :length] for keys in self.keys),
            tuple(values[part, :, :length] for values in self.values),
            self.lengths[part],
        )

    @staticmethod
    def merge(caches: list[PromptCache]) -> PromptCache:
        """Stack single rows, padded to the longest."""
        lengths = torch.cat([cache.lengths for cache in caches])
        longest = int(lengths.max())

        def stack(parts: list[Tensor]) -> Tensor:
            return torch.cat(
                [nn.functional.pad(part, (0, 0, 0, longest - part.shape[2])) for part in parts]
            )

        layers = range(len(caches[0].keys))
        return PromptCache(
            tuple(stack([cache.keys[layer] for cache in caches]) for layer in layers),
            tuple(stack([cache.values[layer] for cache in caches]) for layer in layers),
            lengths,
        )


class DiffusionDecoder(nn.Module):
    """DiffusionGemma as prompt encoder, denoiser and language-model head."""

    def __init__(self, options: Mapping[str, Any], experts: str = "grouped_mm") -> None:
        super().__init__()
        if experts == "dense":
            ALL_EXPERTS_FUNCTIONS.register("dense", dense_experts)
        config = DiffusionGemmaConfig(text_config=dict(options), vision_config=TINY_VISION)
        config._attn_implementation = "sdpa"
        self.model = DiffusionGemmaForBlockDiffusion(config)
        self.model.model.encoder.vision_tower = None
        self.model.model.encoder.embed_vision = None
        self.model.set_experts_implementation(experts)
        for module in self.model.modules():
            if isinstance(module, DiffusionGemmaRMSNorm):
                module.forward = MethodType(fused_norm, module)
        self.text_config = self.model.config.text_config
        self.hidden_size: int = self.text_config.hidden_size
        self.vocabulary: int = self.text_config.vocab_size

    def scale_for_training(self) -> None:
        """Set norms for training from scratch: attention logits of unit variance at the start."""
        for name, parameter in self.model.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                nn.init.constant_(parameter, parameter.shape[0] ** -0.25)
            elif "post_" in name and name.endswith("layernorm.weight"):
                nn.init.constant_(parameter, 0.5)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return embeddings [..., hidden], scaled as the decoder's prompt has them."""
        embeddings: Tensor = self.model.model.encoder.language_model.embed_tokens(tokens)
        return embeddings

    def head(self, hidden: Tensor) -> Tensor:
        """Return soft-capped scores [..., vocabulary] in float32."""
        cap: float = self.model.final_logit_softcapping
        return torch.tanh(self.model.lm_head(hidden).float() / cap) * cap

    def prefill(self, embeddings: Tensor, lengths: Tensor) -> tuple[PromptCache, Tensor]:
        """Run prompts through the causal half.

        Args:
            embeddings: [rows, positions, hidden].
            lengths: [rows].

        Returns:
            The cache, and hidden states [rows, positions, hidden].
        """
        count = embeddings.shape[1]
        positions = torch.arange(count, device=embeddings.device)
        causal = positions[None, :] <= positions[:, None]
        mask = (causal[None] & (positions[None, None] < lengths[:, None, None]))[:, None]
        output = self.model.model.encoder.language_model(
            inputs_embeds=embeddings,
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            position_ids=positions[None],
            past_key_values=DynamicCache(),
        )
        layers = output.past_key_values.layers
        cache = PromptCache(
            tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers), lengths
        )
        return cache, output.last_hidden_state

    def read(
        self, texts: Sequence[Sequence[int]], prompt: PromptCache, begin: int, end: int
    ) -> list[float]:
        """Return the causal half's log-probability of each text behind one prompt.

        Args:
            texts: tokens, no special ones.
            prompt: one row, whose last position is the token ``begin``.
            begin: the token that the text follows.
            end: the token that ends it.
        """
        count, known = len(texts), prompt.keys[0].shape[2] - 1
        width = max(map(len, texts)) + 1
        device = prompt.keys[0].device
        tokens = torch.full((count, width + 1), end, device=device)
        tokens[:, 0] = begin
        for row, text in enumerate(texts):
            tokens[row, 1 : len(text) + 1] = torch.tensor(text, dtype=torch.long, device=device)
        past = DynamicCache()
        for layer, (keys, values) in enumerate(zip(prompt.keys, prompt.values, strict=True)):
            shape = (count, -1, -1, -1)
            past.update(keys[:, :, :known].expand(shape), values[:, :, :known].expand(shape), layer)
        positions = known + torch.arange(width, device=device)
        seen = torch.arange(known + width, device=device)[None] <= positions[:, None]
        mask = seen[None, None].expand(count, 1, width, known + width)
        hidden = self.model.model.encoder.language_model(
            inputs_embeds=self.embed(tokens[:, :-1]),
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            position_ids=positions[None],
            past_key_values=past,
        ).last_hidden_state
        logs = self.head(hidden).log_softmax(dim=-1)
        each = torch.take_along_dim(logs, tokens[:, 1:, None], dim=2)[..., 0].cumsum(dim=1)
        return [float(each[row, len(text)]) for row, text in enumerate(texts)]

    def denoise(
        self,
        canvas: Tensor,
        canvas_lengths: Tensor,
        cache: PromptCache,
        conditioning: Tensor | None,
        conditioned: Tensor | None,
    ) -> Tensor:
        """Predict the clean canvas from a noisy one.

        Args:
            canvas: [rows, canvas], tokens.
            canvas_lengths: [rows]; positions behind are padding and seen by nobody.
            cache: the prompts.
            conditioning: [rows, canvas, vocabulary], the last step's scores, or none.
            conditioned: [rows], which rows have such scores; none is all of them.

        Returns:
            Soft-capped scores [rows, canvas, vocabulary] in float32.
        """
        rows, width = canvas.shape
        prompt = cache.keys[0].shape[2]
        device = canvas.device
        seen = torch.cat(
            [
                torch.arange(prompt, device=device)[None] < cache.lengths[:, None],
                torch.arange(width, device=device)[None] < canvas_lengths[:, None],
            ],
            dim=1,
        )
        mask = seen[:, None, None].expand(rows, 1, width, prompt + width)
        past = DynamicCache()
        for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
            past.update(keys, values, layer)
        positions = cache.lengths[:, None] + torch.arange(width, device=device)[None]
        hidden = self.model.model.decoder(
            decoder_input_ids=canvas,
            past_key_values=past,
            self_conditioning_logits=conditioning,
            self_conditioning_mask=conditioned,
            decoder_attention_mask={"full_attention": mask, "sliding_attention": mask},
            decoder_position_ids=positions,
        ).last_hidden_state
        return self.head(hidden)


__all__ = ["TINY_VISION", "DiffusionDecoder", "PromptCache", "dense_experts", "fused_norm"]
