"""A model as it would be with float8 weights on a GPU, on any device: rounded, and slow.

``--weights float8`` needs fused kernels, and those a GPU and the published model. What float8 does
to a model that has been trained is a question of its own, and this answers it anywhere: weights
that ``quantise`` puts into float8 are rounded to it and back by the same scales, and so is what
goes into each of their products, token by token. Products are exact then; a GPU's own rounding of
sums comes on top of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from stream_server.recogniser.model import TranscriptionModel
from stream_server.recogniser.quantise import Float8

_LINEAR = (
    ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
    ("mlp", ("gate_proj", "up_proj", "down_proj")),
)
"""Of a layer, what the step engine puts into float8 beside the experts (``Denoiser.quantise``)."""


def round_rows(values: Tensor) -> Tensor:
    """Return [..., columns] as float8 with a scale for each row would have it."""
    flat = values.reshape(-1, values.shape[-1])
    return Float8.of(flat).wide(values.dtype).view_as(values)


def rounded_experts(
    experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Run every expert on every token, rounded, and mix; see ``decoder.dense_experts``."""
    shares = torch.zeros(hidden.shape[0], experts.num_experts, dtype=hidden.dtype)
    shares = shares.to(hidden.device).scatter(1, top_k_index, top_k_weights.to(hidden.dtype))
    both = torch.matmul(round_rows(hidden), experts.gate_up_proj.transpose(1, 2))
    gate, up = both.chunk(2, dim=-1)
    inner = round_rows(experts.act_fn(gate) * up)
    out = torch.matmul(inner, experts.down_proj.transpose(1, 2))
    return torch.einsum("te,eth->th", shares, out)


def round_to_float8(model: TranscriptionModel) -> int:
    """Round a model's layers, in place; return how many weights were.

    Args:
        model: in evaluation mode.
    """
    upstream = model.decoder.model
    ALL_EXPERTS_FUNCTIONS.register("rounded", rounded_experts)
    upstream.set_experts_implementation("rounded")
    # The two halves share their weights; what is rounded twice would not be worse, but be counted.
    done: set[int] = set()

    @torch.no_grad()
    def put(weight: nn.Parameter) -> None:
        if weight.data_ptr() not in done:
            weight.copy_(Float8.of(weight).wide(weight.dtype))
            done.add(weight.data_ptr())

    def round_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (round_rows(inputs[0]), *inputs[1:])

    for half in (upstream.model.encoder.language_model, upstream.model.decoder):
        for layer in half.layers:
            for part, names in _LINEAR:
                for name in names:
                    linear = getattr(getattr(layer, part), name)
                    # Where values are keys, there is no layer of their own.
                    if linear is not None:
                        put(linear.weight)
                        linear.register_forward_pre_hook(round_input)
            put(layer.experts.gate_up_proj)
            put(layer.experts.down_proj)
    return len(done)


__all__ = ["round_rows", "round_to_float8", "rounded_experts"]
