"""DiffusionGemma's layers as the step loop runs them: transformers' weights, our order of work.

The weights stay those of the transformers module (joined projections share its memory). What
differs: queries, keys and values are one product, as are gate and up; keys and values are written
into preallocated slots, prompt first and canvas right behind; and whatever lies between two
products is one kernel (``kernels``). The same code runs prompts (causal) and canvases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stream_server.recogniser.kernels.choice import Kernels
from stream_server.recogniser.kernels.plain import Place, Rotary
from stream_server.recogniser.products import Product, multiply, read_product
from stream_server.recogniser.quantise import Float8


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer."""

    kind: str
    """``sliding_attention`` or ``full_attention``: which rotary positions."""
    first_norm: Tensor
    qkv: Product
    head_norms: tuple[Tensor, Tensor]
    """Of queries and keys."""
    output: Product
    middle_norms: Tensor
    """[4, hidden]; see ``plain.after_attention``."""
    gate_up: Product
    down: Product
    router: Product
    expert_scale: Tensor
    choices: int
    experts_in: Tensor | Float8
    experts_out: Tensor | Float8
    last_norms: Tensor
    """[3, hidden]; see ``plain.after_experts``."""
    scalar: Tensor
    heads: int
    groups: int
    size: int
    """Of a head."""

    @property
    def is_small(self) -> bool:
        """Whether its inputs are wanted in float8, made by the kernel that makes them."""
        return isinstance(self.experts_in, Float8) and isinstance(self.gate_up.weight, Float8)


def read_layer(layer: Any, kind: str) -> Layer:
    """Read the weights of a transformers layer, of either half."""
    attention, router = layer.self_attn, layer.router
    projections = [attention.q_proj, attention.k_proj]
    if attention.v_proj is not None:
        projections.append(attention.v_proj)
    qkv, size = read_product(*projections), attention.q_norm.weight.shape[0]
    width = layer.input_layernorm.weight.shape[0]
    router_norm = router.scale.data * width**-0.5
    return Layer(
        kind=kind,
        first_norm=layer.input_layernorm.weight.data,
        qkv=qkv,
        head_norms=(attention.q_norm.weight.data, attention.k_norm.weight.data),
        output=read_product(attention.o_proj),
        middle_norms=torch.stack(
            [
                layer.post_attention_layernorm.weight.data,
                layer.pre_feedforward_layernorm.weight.data,
                layer.pre_feedforward_layernorm_2.weight.data,
                router_norm,
            ]
        ),
        gate_up=read_product(layer.mlp.gate_proj, layer.mlp.up_proj),
        down=read_product(layer.mlp.down_proj),
        router=read_product(router.proj),
        expert_scale=router.per_expert_scale.data,
        choices=router.config.top_k_experts,
        experts_in=layer.experts.gate_up_proj.data,
        experts_out=layer.experts.down_proj.data,
        last_norms=torch.stack(
            [
                layer.post_feedforward_layernorm_1.weight.data,
                layer.post_feedforward_layernorm_2.weight.data,
                layer.post_feedforward_layernorm.weight.data,
            ]
        ),
        scalar=layer.layer_scalar.data,
        heads=attention.q_proj.out_features // size,
        groups=attention.k_proj.out_features // size,
        size=size,
    )


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values of all slots, one pair a layer: [slots, groups, capacity, head size]."""

    pairs: tuple[tuple[Tensor, Tensor], ...]

    @staticmethod
    def allocate(layers: tuple[Layer, ...], slots: int, capacity: int) -> KeyValues:
        """Make room for ``slots`` rows of ``capacity`` positions, zeroed."""

        def room(layer: Layer) -> Tensor:
            return layer.first_norm.new_zeros(slots, layer.groups, capacity, layer.size)

        return KeyValues(tuple((room(layer), room(layer)) for layer in layers))


class Stack:
    """The layers of one half of the model, prompt encoder or canvas decoder.

    Args:
        module: transformers' ``DiffusionGemmaEncoderTextModel`` or ``DiffusionGemmaDecoderModel``.
        config: its text configuration.
        kernels: the operations.
        capacity: positions for which rotary factors are kept.
    """

    def __init__(self, module: Any, config: Any, kernels: Kernels, capacity: int) -> None:
        self.kernels = kernels
        self.eps: float = config.rms_norm_eps
        self.layers = tuple(
            read_layer(layer, kind)
            for layer, kind in zip(module.layers, config.layer_types, strict=True)
        )
        self.final_norm: Tensor = module.norm.weight.data
        firsts = [*(layer.first_norm for layer in self.layers[1:]), self.final_norm]
        self.last_norms = tuple(
            torch.cat([layer.last_norms, first[None]])
            for layer, first in zip(self.layers, firsts, strict=True)
        )
        self.rotary = _rotary(module.rotary_emb, self.layers, capacity)

    def run(self, hidden: Tensor, cache: KeyValues, place: Place) -> Tensor:
        """Run tokens through the layers, writing their keys and values.

        Args:
            hidden: [tokens, hidden], row after row.
            cache: of all slots.
            place: where the tokens stand.

        Returns:
            [tokens, hidden], after the last norm.
        """
        return run_together(((self, place),), hidden, cache)


def run_together(halves: Sequence[tuple[Stack, Place]], hidden: Tensor, cache: KeyValues) -> Tensor:
    """Run tokens of both halves through the layers at once: their weights are read one time.

    What the halves do not share stays apart: LoRA, the layers' scalars, and who attends to what. In
    each layer the tokens of a later half write their keys before those of an earlier one, and
    nobody attends before all are written: so a canvas reads the prompt that is run beside it.

    Args:
        halves: each with the place of its tokens; of the same model.
        hidden: [tokens, hidden], row after row, half after half.
        cache: of all slots.

    Returns:
        [tokens, hidden], after the last norm.
    """
    first = halves[0][0]
    kernels, eps = first.kernels, first.eps
    counts = [place.rows * place.width for _, place in halves]
    normed = kernels.norm(hidden, first.layers[0].first_norm, eps)
    small: Float8 | None = None
    for index, caches in enumerate(cache.pairs):
        layers = [stack.layers[index] for stack, _ in halves]
        layer = layers[0]
        qkv = multiply([each.qkv for each in layers], normed, counts, small)
        attended = _attend(halves, layers, torch.split(qkv, counts), caches)
        attended = multiply([each.output for each in layers], attended, counts)
        hidden, inputs, smalls = kernels.after_attention(
            attended, hidden, layer.middle_norms, eps, layer.is_small
        )
        dense = _dense(kernels, layers, inputs[0], smalls and smalls[0], counts)
        chosen, shares = kernels.route(layer.router(inputs[2]), layer.expert_scale, layer.choices)
        pairs = kernels.run_experts(inputs[1], chosen, *_experts(layer), smalls and smalls[1])
        scalar = layer.scalar
        if len(halves) > 1:
            own = [each.scalar.expand(count) for each, count in zip(layers, counts, strict=True)]
            scalar = torch.cat(own)
        norms, goes_on = first.last_norms[index], index + 1 < len(first.layers)
        hidden, normed, small = kernels.after_experts(
            dense, pairs, shares, hidden, norms, scalar, eps, layer.is_small and goes_on
        )
    return normed


def _dense(
    kernels: Kernels,
    layers: Sequence[Layer],
    hidden: Tensor,
    small: Float8 | None,
    counts: Sequence[int],
) -> Tensor:
    both = multiply([each.gate_up for each in layers], hidden, counts, small)
    inner, inner_small = kernels.gate_small(both) if small else (kernels.gate(both), None)
    return multiply([each.down for each in layers], inner, counts, inner_small)


def _attend(
    halves: Sequence[tuple[Stack, Place]],
    layers: Sequence[Layer],
    qkv: Sequence[Tensor],
    caches: tuple[Tensor, Tensor],
) -> Tensor:
    """Write everybody's keys and values, the last half's first; then attend."""
    places = [
        replace(place, heads=layer.heads) for (_, place), layer in zip(halves, layers, strict=True)
    ]
    queries: list[Tensor] = []
    for (stack, _), layer, part, place in reversed(
        list(zip(halves, layers, qkv, places, strict=True))
    ):
        rotary = stack.rotary[layer.kind]
        query = stack.kernels.rotate(part, layer.head_norms, rotary, caches, place, stack.eps)
        queries.insert(0, query)
    attend = halves[0][0].kernels.attend
    found = [attend(query, caches, place) for query, place in zip(queries, places, strict=True)]
    return found[0] if len(found) == 1 else torch.cat(found)


def _experts(layer: Layer) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    first, second = layer.experts_in, layer.experts_out
    if isinstance(first, Float8) and isinstance(second, Float8):
        return first.values, second.values, (first.scales, second.scales)
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first, second, None
    raise TypeError("experts are float8 both or neither")


def quantise_layers(stacks: tuple[Stack, ...], names: tuple[str, ...]) -> None:
    """Turn the named weights of all layers into float8; what stacks share is done once.

    The memory of the old weights is given back where nothing else holds them.
    """
    for index in range(len(stacks[0].layers)):
        # The old weight is kept with the new: an address that is free is used again.
        done: dict[int, tuple[Tensor, Float8]] = {}
        for stack in stacks:
            layer = stack.layers[index]
            changed: dict[str, Any] = {}
            for name in names:
                old: Any = getattr(layer, name)
                weight: Any = old.weight if isinstance(old, Product) else old
                if weight.data_ptr() not in done:
                    done[weight.data_ptr()] = (weight, Float8.of(weight))
                small = done[weight.data_ptr()][1]
                changed[name] = replace(old, weight=small) if isinstance(old, Product) else small
            layers = list(stack.layers)
            layers[index] = replace(layer, **changed)
            stack.layers = tuple(layers)


def _rotary(embedding: Any, layers: tuple[Layer, ...], capacity: int) -> dict[str, Rotary]:
    device, dtype = layers[0].first_norm.device, layers[0].first_norm.dtype
    positions = torch.arange(capacity, device=device)[None]
    like = torch.empty(0, device=device, dtype=dtype)
    found = {}
    for kind in {layer.kind for layer in layers}:
        cosine, sine = embedding(like, positions, kind)
        found[kind] = Rotary(cosine[0].contiguous(), sine[0].contiguous())
    return found


__all__ = ["KeyValues", "Layer", "Stack", "quantise_layers", "read_layer", "run_together"]
