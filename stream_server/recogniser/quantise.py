"""Weights in float8 (e4m3), a scale for each output row: half the bytes of bfloat16.

Scales are by row, not by blocks of 128: neither 704 nor 2112 is a multiple of 128. Activations are
quantised by token on the way into a product. Norms, router, embedding and head stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LARGEST = 448.0
"""Of float8 e4m3."""


@dataclass(frozen=True, slots=True)
class Float8:
    """A weight [..., rows, columns] and the scale of each row [..., rows]."""

    values: Tensor
    scales: Tensor

    @staticmethod
    def of(weight: Tensor) -> Float8:
        """Quantise a weight, a matrix at a time to keep memory low."""
        if weight.dim() == 3:
            parts = [Float8.of(each) for each in weight]
            return Float8(
                torch.stack([part.values for part in parts]),
                torch.stack([part.scales for part in parts]),
            )
        scales = weight.float().abs().amax(dim=-1).clamp(min=1e-12) / LARGEST
        values = (weight.float() / scales[:, None]).to(torch.float8_e4m3fn)
        return Float8(values, scales)

    def wide(self, dtype: torch.dtype) -> Tensor:
        """Return the weight that this stands for."""
        return (self.values.float() * self.scales[..., None]).to(dtype)


def linear(hidden: Tensor, weight: Tensor | Float8, small: Float8 | None = None) -> Tensor:
    """Multiply [tokens, in] by a weight [out, in] of either kind.

    Args:
        hidden: [tokens, in].
        weight: [out, in].
        small: ``hidden`` in float8, where the kernel before has made it; read with a float8 weight.
    """
    if isinstance(weight, Tensor):
        return functional.linear(hidden, weight)
    if hidden.device.type != "cuda":
        given = hidden if small is None else small.wide(hidden.dtype)
        return functional.linear(given, weight.wide(hidden.dtype))
    if small is None:
        from stream_server.recogniser.kernels.triton_experts import quantise_rows

        small = Float8(*quantise_rows(hidden))
    return torch._scaled_mm(
        small.values,
        weight.values.t(),
        scale_a=small.scales[:, None],
        scale_b=weight.scales[None],
        out_dtype=hidden.dtype,
        use_fast_accum=True,
    )


__all__ = ["LARGEST", "Float8", "linear"]
