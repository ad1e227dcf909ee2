"""Attention over a row's own keys in Triton (Dao et al., 2022), for any head size and grouping.

The heads of a key's group are laid end to end as one longer query, so keys are never expanded.
Keys lie in the row's slot, prompt first and canvas behind it; a row reads its own number of them,
so there is no mask.
"""

# Triton reads its kernels' source, and its names are not typed.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from stream_server.recogniser.kernels.plain import Place


@triton.jit
def _attend(
    query, keys, values, out, slots, starts, ends, capacity, width,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, DIM: tl.constexpr, CAUSAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    shared: tl.constexpr = HEADS // GROUPS
    row = tl.program_id(1) // GROUPS
    group = tl.program_id(1) % GROUPS
    slot = tl.load(slots + row).to(tl.int64)
    end = tl.load(ends + row)
    start = tl.load(starts + row)
    if CAUSAL:
        end = tl.minimum(end, start + width)
    places = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = places < shared * width
    at = tl.arange(0, DIM)
    base = query + (row * HEADS + group * shared).to(tl.int64) * width * DIM
    q = tl.load(base + places[:, None] * DIM + at[None, :], mask=valid[:, None], other=0.0)
    first = (slot * GROUPS + group) * capacity * DIM
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M, DIM], tl.float32)
    begin = 0
    while begin < end:
        near = begin + tl.arange(0, BLOCK_N)
        there = near < end
        k = tl.load(
            keys + first + near[None, :] * DIM + at[:, None], mask=there[None, :], other=0.0
        )
        score = tl.dot(q, k) * 1.4426950408889634
        score = tl.where(there[None, :], score, float("-inf"))
        if CAUSAL:
            score = tl.where(
                near[None, :] <= (start + places % width)[:, None], score, float("-inf")
            )
        higher = tl.maximum(peak, tl.max(score, axis=1))
        shrink = tl.exp2(peak - higher)
        share = tl.exp2(score - higher[:, None])
        mass = mass * shrink + tl.sum(share, axis=1)
        v = tl.load(
            values + first + near[:, None] * DIM + at[None, :], mask=there[:, None], other=0.0
        )
        total = total * shrink[:, None]
        total = tl.dot(share.to(v.dtype), v, total)
        peak = higher
        begin += BLOCK_N
    total = total / mass[:, None]
    head = group * shared + places // width
    token = row * width + places % width
    target = out + token.to(tl.int64)[:, None] * HEADS * DIM + head[:, None] * DIM + at[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=valid[:, None])


def attend(query: Tensor, caches: tuple[Tensor, Tensor], place: Place) -> Tensor:
    """See :func:`plain.attend`."""
    keys, values = caches
    rows, heads, width, size = query.shape
    _, groups, capacity, _ = keys.shape
    out = query.new_empty(rows * width, heads * size)
    block_m, block_n = 64, 16 if size > 256 else 64
    _attend[(triton.cdiv(heads // groups * width, block_m), rows * groups)](
        query, keys, values, out, place.slots, place.starts, place.ends, capacity, width,
        HEADS=heads, GROUPS=groups, DIM=size, CAUSAL=place.is_causal,
        BLOCK_M=block_m, BLOCK_N=block_n, num_warps=8, num_stages=2,
    )  # fmt: skip
    return out


__all__ = ["attend"]
