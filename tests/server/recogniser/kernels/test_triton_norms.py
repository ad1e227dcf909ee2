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
    found = [getattr(each, name)(*arguments) for each in (fused, plain)]
    assert found[0][2] is found[1][2] is None
    for got, wanted in zip(found[0][:2], found[1][:2]):
        close(got, wanted)
apart = torch.rand(5)
close(fused.after_experts(dense, pairs, shares, residual, weights, apart, 1e-6)[0],
      plain.after_experts(dense, pairs, shares, residual, weights, apart, 1e-6)[0])
""")


SMALL = """
from stream_server.recogniser.kernels import triton_norms as fused
from stream_server.recogniser.kernels.triton_experts import quantise_rows
residual, dense, weights = torch.randn(5, 48), torch.randn(5, 48), torch.randn(4, 48)
pairs, shares, scalar = torch.randn(5, 3, 48), torch.rand(5, 3), torch.tensor([0.7])
cases = [
    ("gate_small", (torch.cat([dense, residual], 1) * 3,)),
    ("after_attention", (dense, residual, weights, 1e-6, True)),
    ("after_experts", (dense, pairs, shares, residual, weights, scalar, 1e-6, True)),
]
for name, arguments in cases:
    arguments = [
        each.to(device, dtype) if isinstance(each, torch.Tensor) else each for each in arguments
    ]
    if name == "after_experts":
        arguments[2] = arguments[2].float()
    *wides, smalls = getattr(fused, name)(*arguments)
    wanted = getattr(plain, name)(*arguments)
    close(wides[-1].float(), wanted[-2].float(), tolerance)
    wides = wides[-1][:2] if name == "after_attention" else wides[-1:]
    smalls = smalls if name == "after_attention" else [smalls]
    assert len(wides) == len(smalls)
    for wide, small, other in zip(
        wides, smalls, wanted[-1] if len(smalls) == 2 else wanted[-1:], strict=True
    ):
        # What another launch would make of it, and what PyTorch does.
        values, scales = quantise_rows(wide.contiguous())
        assert torch.equal(values.float(), small.values.float())
        assert torch.equal(scales, small.scales)
        close(small.scales, other.scales, tolerance)
        close(small.wide(torch.float32), other.wide(torch.float32), 0.08)
"""


def test_float8_beside_what_it_is_made_of(interpret: Callable[[str], None]) -> None:
    interpret("device, dtype, tolerance = 'cpu', torch.float32, 2e-5\n" + SMALL)


@pytest.mark.gpu
def test_float8_on_a_gpu(on_gpu: Callable[[str], None]) -> None:
    """Nearly as PyTorch rounds: not one place in a hundred is another."""
    on_gpu("device, dtype, tolerance = 'cuda', torch.bfloat16, 5e-3\n" + SMALL)
    on_gpu("""
from stream_server.recogniser.kernels import triton_norms as fused
both = torch.randn(64, 2 * 2112, device="cuda", dtype=torch.bfloat16)
out, small = fused.gate_small(both)
wanted = Float8.of(out)
torch.testing.assert_close(small.scales, wanted.scales)
assert float((small.values.float() == wanted.values.float()).float().mean()) > 0.99
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
