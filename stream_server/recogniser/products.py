"""Linear layers as the step runs them: several joined into one product, LoRA beside it.

LoRA is not merged: encoder and decoder share their weights and differ in LoRA alone. The adapters
of joined layers are joined too: one narrow product, and one wide one that is added in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn import functional

from stream_server.recogniser.quantise import Float8, linear


@dataclass(frozen=True, slots=True)
class Product:
    """A weight [out, in], and LoRA's two halves, its scale in the second."""

    weight: Tensor | Float8
    narrow: Tensor | None = None
    """[ranks, in]."""
    wide: Tensor | None = None
    """[out, ranks]."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Multiply [tokens, in]."""
        return self.adapt(linear(hidden, self.weight), hidden)

    def adapt(self, out: Tensor, hidden: Tensor) -> Tensor:
        """Add LoRA's share of ``hidden`` to ``out``, in place."""
        if self.narrow is None or self.wide is None:
            return out
        return out.addmm_(functional.linear(hidden, self.narrow), self.wide.t())

    @property
    def stored(self) -> Tensor:
        """What is read of the weight."""
        return self.weight.values if isinstance(self.weight, Float8) else self.weight


def multiply(
    products: Sequence[Product],
    hidden: Tensor,
    counts: Sequence[int],
    small: Float8 | None = None,
) -> Tensor:
    """Multiply tokens by a weight that several products share, each part by LoRA of its own.

    Args:
        products: of the same weight.
        hidden: [tokens, in], the parts one after another.
        counts: tokens of each part.
        small: ``hidden`` in float8, if it is there already.
    """
    out = linear(hidden, products[0].weight, small)
    sizes = list(counts)
    parts = zip(products, torch.split(out, sizes), torch.split(hidden, sizes), strict=True)
    for product, own, given in parts:
        product.adapt(own, given)
    return out


def join(weights: list[torch.nn.Parameter]) -> Tensor:
    """Return weights as one, and let the parameters share its memory."""
    first = weights[0]
    place = first.storage_offset()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or weight.storage_offset() != place:
            break
        place += weight.numel()
    else:
        rows = sum(len(weight) for weight in weights)
        return first.data.as_strided((rows, first.shape[1]), (first.shape[1], 1))
    joined = torch.cat([weight.data for weight in weights])
    place = 0
    for weight in weights:
        weight.data = joined[place : place + len(weight)]
        place += len(weight)
    return joined


def read_product(*modules: Any) -> Product:
    """Return linear layers, with or without LoRA, as one product; LoRA is copied."""
    bases = [each.base_layer if isinstance(each, LoraLayer) else each for each in modules]
    weight = join([base.weight for base in bases])
    narrow, wide, place = [], [], 0
    for module, base in zip(modules, bases, strict=True):
        size = len(base.weight)
        if isinstance(module, LoraLayer):
            narrow.append(module.lora_A["default"].weight.data.to(weight.dtype))
            second = module.lora_B["default"].weight.data * module.scaling["default"]
            column = weight.new_zeros(len(weight), second.shape[1])
            column[place : place + size] = second
            wide.append(column)
        place += size
    if not narrow:
        return Product(weight)
    return Product(weight, torch.cat(narrow), torch.cat(wide, dim=1))


__all__ = ["Product", "join", "multiply", "read_product"]
