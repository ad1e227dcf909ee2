"""Norms, residuals, rotary positions and the activation in Triton: one launch where there were ten.

All arithmetic is float32; what is stored between two kernels is rounded as PyTorch rounds it.
"""

# Triton reads its kernels' source, and its names are not typed.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stream_server.recogniser.kernels.plain import Place, Rotary
from stream_server.recogniser.kernels.triton_experts import empty_small, store_small
from stream_server.recogniser.quantise import Float8


@triton.jit
def _norm(values, weight, out, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * HIDDEN
    at = tl.arange(0, BLOCK)
    mask = at < HIDDEN
    value = tl.load(values + row + at, mask=mask, other=0.0).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / HIDDEN + eps)
    value *= tl.load(weight + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row + at, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _after_attention(
    attended, residual, weights, hidden, outs, small, scales, eps, stride,
    HIDDEN: tl.constexpr, SMALL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    row = token.to(tl.int64) * HIDDEN
    at = tl.arange(0, BLOCK)
    mask = at < HIDDEN
    value = tl.load(attended + row + at, mask=mask, other=0.0).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / HIDDEN + eps)
    value *= tl.load(weights + at, mask=mask, other=0.0).to(tl.float32)
    value = value.to(hidden.dtype.element_ty).to(tl.float32)
    value += tl.load(residual + row + at, mask=mask, other=0.0).to(tl.float32)
    rounded = value.to(hidden.dtype.element_ty)
    tl.store(hidden + row + at, rounded, mask=mask)
    value = rounded.to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / HIDDEN + eps)
    # The three norms of the same vector differ in their weights only.
    for which in tl.static_range(3):
        weight = tl.load(weights + (which + 1) * HIDDEN + at, mask=mask, other=0.0)
        scaled = (value * weight.to(tl.float32)).to(outs.dtype.element_ty)
        tl.store(outs + which * stride + row + at, scaled, mask=mask)
        # Dense layer and experts; the router stays as it is.
        if SMALL:  # noqa: SIM102 - two conditions that are known when it is compiled
            if which < 2:
                line = token + which * tl.num_programs(0)
                store_small(scaled.to(tl.float32), small, scales, line, HIDDEN, BLOCK)


@triton.jit
def _after_experts(
    dense, pairs, shares, residual, weights, hidden, out, small, scales, eps, scalar, apart,
    HIDDEN: tl.constexpr, CHOICES: tl.constexpr, SMALL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    row = token * HIDDEN
    at = tl.arange(0, BLOCK)
    mask = at < HIDDEN
    mixed = tl.zeros([BLOCK], tl.float32)
    for choice in tl.static_range(CHOICES):
        share = tl.load(shares + token * CHOICES + choice)
        part = tl.load(pairs + (token * CHOICES + choice) * HIDDEN + at, mask=mask, other=0.0)
        mixed += share * part.to(tl.float32)
    mixed = mixed.to(hidden.dtype.element_ty).to(tl.float32)
    mixed *= tl.rsqrt(tl.sum(mixed * mixed, axis=0) / HIDDEN + eps)
    mixed *= tl.load(weights + HIDDEN + at, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(dense + row + at, mask=mask, other=0.0).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / HIDDEN + eps)
    value *= tl.load(weights + at, mask=mask, other=0.0).to(tl.float32)
    value = value.to(hidden.dtype.element_ty).to(tl.float32)
    value += mixed.to(hidden.dtype.element_ty).to(tl.float32)
    value = value.to(hidden.dtype.element_ty).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / HIDDEN + eps)
    value *= tl.load(weights + 2 * HIDDEN + at, mask=mask, other=0.0).to(tl.float32)
    value = value.to(hidden.dtype.element_ty).to(tl.float32)
    value += tl.load(residual + row + at, mask=mask, other=0.0).to(tl.float32)
    value = value.to(hidden.dtype.element_ty).to(tl.float32)
    value *= tl.load(scalar + token * apart).to(tl.float32)
    rounded = value.to(hidden.dtype.element_ty)
    tl.store(hidden + row + at, rounded, mask=mask)
    value = rounded.to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / HIDDEN + eps)
    value *= tl.load(weights + 3 * HIDDEN + at, mask=mask, other=0.0).to(tl.float32)
    rounded = value.to(out.dtype.element_ty)
    tl.store(out + row + at, rounded, mask=mask)
    if SMALL:
        store_small(rounded.to(tl.float32), small, scales, tl.program_id(0), HIDDEN, BLOCK)


@triton.jit
def _rotate(
    qkv, query_weight, key_weight, cosine, sine, query, keys, values, slots, starts, eps, width,
    columns, capacity,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, OWN_VALUES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """One program a token and head: queries first, then keys, then values."""
    token = tl.program_id(0)
    head = tl.program_id(1)
    row = token // width
    place = token % width
    at = tl.arange(0, DIM)
    half: tl.constexpr = DIM // 2
    partner = tl.where(at < half, at + half, at - half)
    is_value = head >= HEADS + GROUPS
    source = head
    if not OWN_VALUES:
        # Full-attention layers have no values of their own: the keys, before norm and rotation.
        source = tl.where(is_value, head - GROUPS, head)
    base = qkv + token.to(tl.int64) * columns + source * DIM
    value = tl.load(base + at).to(tl.float32)
    other = tl.load(base + partner).to(tl.float32)
    factor = tl.rsqrt(tl.sum(value * value, axis=0) / DIM + eps)
    element: tl.constexpr = qkv.dtype.element_ty
    position = tl.load(starts + row) + place
    slot = tl.load(slots + row).to(tl.int64)
    if is_value:
        group = head - HEADS - GROUPS
        target = values + ((slot * GROUPS + group) * capacity + position) * DIM
        tl.store(target + at, (value * factor).to(element))
    else:
        weights = query_weight
        if head >= HEADS:
            weights = key_weight
        own = (value * factor * tl.load(weights + at).to(tl.float32)).to(element)
        far = (other * factor * tl.load(weights + partner).to(tl.float32)).to(element)
        cos = tl.load(cosine + position * DIM + at).to(tl.float32)
        sin = tl.load(sine + position * DIM + at).to(tl.float32)
        turned = tl.where(at < half, -far.to(tl.float32), far.to(tl.float32))
        result = (own.to(tl.float32) * cos + turned * sin).to(element)
        if head < HEADS:
            # [rows, heads, places, size]: the heads of a group lie beside each other.
            target = query + ((row.to(tl.int64) * HEADS + head) * width + place) * DIM
            tl.store(target + at, result)
        else:
            target = keys + ((slot * GROUPS + head - HEADS) * capacity + position) * DIM
            tl.store(target + at, result)


@triton.jit
def _gate_small(both, out, small, scales, INNER: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < INNER
    base = both + row.to(tl.int64) * 2 * INNER + at
    first = tl.load(base, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(base + INNER, mask=mask, other=0.0).to(tl.float32)
    z = 0.7978845608028654 * (first + 0.044715 * first * first * first)
    rounded = (first / (1.0 + tl.exp(-2.0 * z)) * second).to(out.dtype.element_ty)
    tl.store(out + row.to(tl.int64) * INNER + at, rounded, mask=mask)
    store_small(rounded.to(tl.float32), small, scales, row, INNER, BLOCK)


@triton.jit
def _gate(both, out, total, INNER: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < total
    row = at // INNER
    column = at % INNER
    base = both + row * 2 * INNER + column
    first = tl.load(base, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(base + INNER, mask=mask, other=0.0).to(tl.float32)
    z = 0.7978845608028654 * (first + 0.044715 * first * first * first)
    value = first / (1.0 + tl.exp(-2.0 * z)) * second
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


def norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See :func:`plain.norm`."""
    rows, width = hidden.shape
    out = torch.empty_like(hidden)
    block = triton.next_power_of_2(width)
    _norm[(rows,)](hidden, weight, out, eps, HIDDEN=width, BLOCK=block, num_warps=8)
    return out


def after_attention(
    attended: Tensor, residual: Tensor, weights: Tensor, eps: float, is_small: bool = False
) -> tuple[Tensor, Tensor, tuple[Float8, Float8] | None]:
    """See :func:`plain.after_attention`."""
    rows, width = residual.shape
    hidden = torch.empty_like(residual)
    outs = residual.new_empty(3, rows, width)
    # Where nothing is written, any address does.
    small, scales = empty_small(residual, 2, rows, width) if is_small else (outs, outs)
    _after_attention[(rows,)](
        attended, residual, weights, hidden, outs, small, scales, eps, rows * width,
        HIDDEN=width, SMALL=is_small, BLOCK=triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    if not is_small:
        return hidden, outs, None
    return hidden, outs, (Float8(small[0], scales[0]), Float8(small[1], scales[1]))


def after_experts(
    dense: Tensor,
    pairs: Tensor,
    shares: Tensor,
    residual: Tensor,
    weights: Tensor,
    scalar: Tensor,
    eps: float,
    is_small: bool = False,
) -> tuple[Tensor, Tensor, Float8 | None]:
    """See :func:`plain.after_experts`."""
    rows, width = residual.shape
    hidden = torch.empty_like(residual)
    out = torch.empty_like(residual)
    small, scales = empty_small(residual, rows, width) if is_small else (out, out)
    _after_experts[(rows,)](
        dense, pairs, shares, residual, weights, hidden, out, small, scales, eps, scalar,
        int(len(scalar) > 1),
        HIDDEN=width, CHOICES=pairs.shape[1], SMALL=is_small,
        BLOCK=triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    return hidden, out, Float8(small, scales) if is_small else None


def rotate(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor],
    rotary: Rotary,
    caches: tuple[Tensor, Tensor],
    place: Place,
    eps: float,
) -> Tensor:
    """See :func:`plain.rotate`."""
    keys, values = caches
    _, groups, capacity, size = keys.shape
    columns = qkv.shape[1]
    heads = place.heads
    query = qkv.new_empty(place.rows, heads, place.width, size)
    _rotate[(qkv.shape[0], heads + 2 * groups)](
        qkv, norms[0], norms[1], rotary.cosine, rotary.sine, query, keys, values,
        place.slots, place.starts, eps, place.width, columns, capacity,
        HEADS=heads, GROUPS=groups, OWN_VALUES=columns == (heads + 2 * groups) * size, DIM=size,
        num_warps=1 if size <= 256 else 2,
    )  # fmt: skip
    return query


def gate_small(both: Tensor) -> tuple[Tensor, Float8]:
    """See :func:`plain.gate_small`."""
    rows, width = both.shape[0], both.shape[1] // 2
    out = both.new_empty(rows, width)
    small, scales = empty_small(both, rows, width)
    block = triton.next_power_of_2(width)
    _gate_small[(rows,)](both, out, small, scales, INNER=width, BLOCK=block, num_warps=8)
    return out, Float8(small, scales)


def gate(both: Tensor) -> Tensor:
    """See :func:`plain.gate`."""
    rows, width = both.shape
    out = both.new_empty(rows, width // 2)
    total = out.numel()
    _gate[(triton.cdiv(total, 2048),)](both, out, total, INNER=width // 2, BLOCK=2048, num_warps=4)
    return out


__all__ = ["after_attention", "after_experts", "gate", "gate_small", "norm", "rotate"]
