"""Norms, residuals, rotary positions and the gate agree with plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def test_norms_and_gate(interpret: Callable[[str], None]) -> None:
    interpret("""
from stream_server.recogniser.kernels import triton_norms as fused
residual, dense, weights = torch.randn(5, 48), torch.randn(5, 48), torch.randn(4, 48)
pairs, shares, scalar = torch.randn(5, 3, 48), torch.rand(5, 3), torch.tensor([0.7])
close(fused.norm(dense, weights[0], 1e-6), plain.norm(dense, weights[0], 1e-6))
close(fused.gate(torch.cat([dense, residual], 1)), plain.gate(torch.cat([dense, residual], 1)))
for name, arguments in {
    "after_attention": (dense, residual, weights, 1e-6),
    "after_experts": (dense, pairs, shares, residual, weights, scalar, 1e-6),
}.items():
    for got, wanted in zip(getattr(fused, name)(*arguments), getattr(plain, name)(*arguments)):
        close(got, wanted)
""")


@pytest.mark.parametrize("own_values", [True, False])
def test_rotate_writes_where_plain_does(interpret: Callable[[str], None], own_values: bool) -> None:
    interpret(
        f"own_values = {own_values}"
        + """
from stream_server.recogniser.kernels import triton_norms as fused
heads, groups, size, capacity, width = 4, 2, 16, 20, 3
starts = torch.tensor([4, 0])
place = Place(2, width, heads, torch.tensor([3, 1]), starts, starts + width, False)
caches = torch.randn(5, groups, capacity, size), torch.randn(5, groups, capacity, size)
other = caches[0].clone(), caches[1].clone()
qkv = torch.randn(2 * width, (heads + (2 if own_values else 1) * groups) * size)
rotary = Rotary(torch.randn(capacity, size), torch.randn(capacity, size))
norms = torch.randn(size), torch.randn(size)
close(fused.rotate(qkv, norms, rotary, caches, place, 1e-6),
      plain.rotate(qkv, norms, rotary, other, place, 1e-6))
close(caches[0], other[0])
close(caches[1], other[1])
"""
    )
