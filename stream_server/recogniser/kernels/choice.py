"""Which implementation runs each operation: plain PyTorch anywhere, Triton on a GPU that has it.

Every field can be replaced on its own, so that one kernel at a time is measured or ruled out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stream_server.recogniser.kernels import plain
from stream_server.recogniser.quantise import Float8


@dataclass(frozen=True, slots=True)
class Kernels:
    """The operations of a step; see ``plain`` for what each does."""

    name: str
    norm: Callable[..., Tensor]
    gate: Callable[..., Tensor]
    gate_small: Callable[..., tuple[Tensor, Float8]]
    after_attention: Callable[..., tuple[Tensor, Tensor, tuple[Float8, Float8] | None]]
    after_experts: Callable[..., tuple[Tensor, Tensor, Float8 | None]]
    rotate: Callable[..., Tensor]
    attend: Callable[..., Tensor]
    route: Callable[..., tuple[Tensor, Tensor]]
    run_experts: Callable[..., Tensor]
    read_vocabulary: Callable[..., plain.VocabularyPass]
    spread: Callable[..., Tensor]
    mix_embeddings: Callable[..., Tensor]


def _from(name: str, *modules: Any) -> Kernels:
    found: dict[str, Any] = {}
    for module in modules:
        for field in Kernels.__dataclass_fields__:
            if hasattr(module, field) and field != "name":
                found[field] = getattr(module, field)
    return Kernels(name, **found)


def plain_kernels() -> Kernels:
    """Return plain PyTorch throughout."""
    return _from("plain", plain)


def grouped_kernels() -> Kernels:
    """Return plain PyTorch with grouped products for the experts."""
    return replace(plain_kernels(), name="grouped", run_experts=plain.grouped_experts)


def fused_kernels() -> Kernels:
    """Return Triton throughout.

    Raises:
        ImportError: Triton is not installed.
    """
    from stream_server.recogniser.kernels import (
        triton_attention,
        triton_experts,
        triton_norms,
        triton_vocabulary,
    )

    return _from("fused", triton_attention, triton_experts, triton_norms, triton_vocabulary)


def pick_kernels(device: torch.device) -> Kernels:
    """Return the fastest kernels that ``device`` can run.

    Triton is written for tensor cores with bfloat16: compute capability 8.0 and above.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return plain_kernels()
    if importlib.util.find_spec("triton") is None:
        return grouped_kernels()
    return fused_kernels()


__all__ = ["Kernels", "fused_kernels", "grouped_kernels", "pick_kernels", "plain_kernels"]
