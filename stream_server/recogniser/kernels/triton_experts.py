"""The mixture of experts in Triton: route, sort once, two grouped products.

Four launches a layer: the router's scores become the chosen experts and their shares; the
(token, choice) pairs are sorted by expert, with a table of tiles; the first product gathers its
tokens itself and applies ``gelu(gate) * up`` before anything is stored; the second writes each
pair's result to the pair's own place, so nothing is added atomically and a token's result does
not depend on its neighbours. The shares are applied where the pairs are summed (``after_experts``).

A grid must not depend on the routing, or a CUDA graph could not hold it: it is the most tiles
that there can be, and programs without a tile return at once.
"""

# Triton reads its kernels' source, and its names are not typed.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from stream_server.recogniser.quantise import Float8


@dataclass(frozen=True, slots=True)
class Block:
    """How one product is cut, its tokens apart."""

    columns: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """How the two products are cut; they share the tokens of a tile."""

    tokens: int
    first: Block
    second: Block


SMALL = Tiles(16, Block(64, 128, 4, 4), Block(64, 128, 4, 4))
"""Up to a dozen tokens an expert: bytes of weights are all that counts."""
MEDIUM = Tiles(64, Block(64, 64, 4, 4), Block(128, 64, 4, 4))
LARGE = Tiles(128, Block(64, 64, 8, 4), Block(128, 64, 8, 4))


def pick_tiles(tokens: int, choices: int, experts: int) -> Tiles:
    """Return the tiles for a batch, by the mean number of tokens of an expert."""
    mean = tokens * choices / experts
    if mean <= 16:
        return SMALL
    return MEDIUM if mean <= 160 else LARGE


@triton.jit
def _route(
    scores, scale, chosen, shares, EXPERTS: tl.constexpr, WIDTH: tl.constexpr, K: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0)
    lanes = tl.arange(0, WIDTH)
    left = tl.load(scores + token * EXPERTS + lanes, mask=lanes < EXPERTS, other=float("-inf"))
    left = left.to(tl.float32)
    peak = tl.max(left, axis=0)
    total = 0.0
    for _ in range(K):
        total += tl.exp(tl.max(left, axis=0) - peak)
        left = tl.where(lanes == tl.argmax(left, axis=0), float("-inf"), left)
    left = tl.load(scores + token * EXPERTS + lanes, mask=lanes < EXPERTS, other=float("-inf"))
    left = left.to(tl.float32)
    for k in range(K):
        expert = tl.argmax(left, axis=0)
        share = tl.exp(tl.max(left, axis=0) - peak) / total
        share *= tl.load(scale + expert).to(tl.float32)
        tl.store(chosen + token * K + k, expert.to(tl.int32))
        tl.store(shares + token * K + k, share)
        left = tl.where(lanes == expert, float("-inf"), left)


@triton.jit
def _sort(
    chosen, order, table, total,
    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program an expert: count everybody's pairs, then list one's own and its tiles.

    Their number is an argument like others: a step comes in many sizes, and each would otherwise
    have to be compiled.

    ``table`` holds [expert, first pair, end] of each tile; unused entries get end 0 from the
    last program.
    """
    expert = tl.program_id(0)
    lanes = tl.arange(0, WIDTH)
    counts = tl.zeros([WIDTH], tl.int32)
    for first in range(0, total, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(chosen + at, mask=at < total, other=0)
        counts += tl.histogram(value, WIDTH, mask=at < total)
    tiles = (counts + BLOCK_M - 1) // BLOCK_M
    start = tl.sum(tl.where(lanes < expert, counts, 0), axis=0)
    end = start + tl.sum(tl.where(lanes == expert, counts, 0), axis=0)
    tile = tl.sum(tl.where(lanes < expert, tiles, 0), axis=0)
    pair = start
    while pair < end:
        tl.store(table + tile * 3, expert)
        tl.store(table + tile * 3 + 1, pair)
        tl.store(table + tile * 3 + 2, end)
        pair += BLOCK_M
        tile += 1
    if expert == tl.num_programs(0) - 1:
        while tile < total // BLOCK_M + tl.num_programs(0):
            tl.store(table + tile * 3 + 2, 0)
            tile += 1
    place = start
    for first in range(0, total, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(chosen + at, mask=at < total, other=-1)
        mine = (value == expert).to(tl.int32)
        rank = place + tl.cumsum(mine, axis=0) - 1
        tl.store(order + rank, at, mask=mine > 0)
        place += tl.sum(mine, axis=0)


@triton.jit
def _first(
    hidden, weight, out, order, table, hidden_scale, weight_scale,
    K: tl.constexpr, INNER: tl.constexpr, CHOICES: tl.constexpr, QUANT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    columns: tl.constexpr = (INNER + BLOCK_N - 1) // BLOCK_N
    tile = tl.program_id(0) // columns
    column = tl.program_id(0) % columns
    end = tl.load(table + tile * 3 + 2)
    first = tl.load(table + tile * 3 + 1)
    if end == 0:
        return
    expert = tl.load(table + tile * 3).to(tl.int64)
    pairs = first + tl.arange(0, BLOCK_M)
    valid = pairs < end
    tokens = tl.load(order + pairs, mask=valid, other=0) // CHOICES
    at = column * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = at < INNER
    depth = tl.arange(0, BLOCK_K)
    left = hidden + tokens.to(tl.int64)[:, None] * K + depth[None, :]
    right = weight + (expert * 2 * INNER + at[None, :]) * K + depth[:, None]
    gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    up = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, K, BLOCK_K):
        deep = depth < K - k
        a = tl.load(left + k, mask=valid[:, None] & deep[None, :], other=0.0)
        b = tl.load(right + k, mask=inside[None, :] & deep[:, None], other=0.0)
        gate = tl.dot(a, b, gate)
        b = tl.load(right + INNER * K + k, mask=inside[None, :] & deep[:, None], other=0.0)
        up = tl.dot(a, b, up)
    if QUANT:
        factor = tl.load(hidden_scale + tokens, mask=valid, other=0.0)[:, None]
        base = weight_scale + expert * 2 * INNER + at
        gate *= factor * tl.load(base, mask=inside, other=0.0)[None, :]
        up *= factor * tl.load(base + INNER, mask=inside, other=0.0)[None, :]
    # gelu by tanh, tanh by exp: x * sigmoid(2 * z).
    z = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    value = gate / (1.0 + tl.exp(-2.0 * z)) * up
    place = out + pairs.to(tl.int64)[:, None] * INNER + at[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=valid[:, None] & inside[None, :])


@triton.jit
def _second(
    inner, weight, out, order, table, inner_scale, weight_scale,
    K: tl.constexpr, HIDDEN: tl.constexpr, QUANT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    columns: tl.constexpr = (HIDDEN + BLOCK_N - 1) // BLOCK_N
    tile = tl.program_id(0) // columns
    column = tl.program_id(0) % columns
    end = tl.load(table + tile * 3 + 2)
    first = tl.load(table + tile * 3 + 1)
    if end == 0:
        return
    expert = tl.load(table + tile * 3).to(tl.int64)
    pairs = first + tl.arange(0, BLOCK_M)
    valid = pairs < end
    at = column * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = at < HIDDEN
    depth = tl.arange(0, BLOCK_K)
    left = inner + pairs.to(tl.int64)[:, None] * K + depth[None, :]
    right = weight + (expert * HIDDEN + at[None, :]) * K + depth[:, None]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for k in range(0, K, BLOCK_K):
        deep = depth < K - k
        a = tl.load(left + k, mask=valid[:, None] & deep[None, :], other=0.0)
        b = tl.load(right + k, mask=inside[None, :] & deep[:, None], other=0.0)
        total = tl.dot(a, b, total)
    if QUANT:
        total *= tl.load(inner_scale + pairs, mask=valid, other=0.0)[:, None]
        base = weight_scale + expert * HIDDEN + at
        total *= tl.load(base, mask=inside, other=0.0)[None, :]
    places = tl.load(order + pairs, mask=valid, other=0).to(tl.int64)
    place = out + places[:, None] * HIDDEN + at[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=valid[:, None] & inside[None, :])


@triton.jit
def store_small(value, out, scales, row, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Store a row, held by one program and zero behind its end, in float8 with its scale."""
    at = tl.arange(0, BLOCK)
    scale = tl.maximum(tl.max(tl.abs(value), axis=0), 1e-12) / 448.0
    tl.store(scales + row, scale)
    small = (value / scale).to(out.dtype.element_ty)
    tl.store(out + row.to(tl.int64) * WIDTH + at, small, mask=at < WIDTH)


@triton.jit
def _quantise(values, out, scales, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    value = tl.load(values + row.to(tl.int64) * WIDTH + at, mask=at < WIDTH, other=0.0)
    store_small(value.to(tl.float32), out, scales, row, WIDTH, BLOCK)


def route(scores: Tensor, scale: Tensor, choices: int) -> tuple[Tensor, Tensor]:
    """See :func:`plain.route`."""
    tokens, experts = scores.shape
    chosen = torch.empty(tokens, choices, dtype=torch.int32, device=scores.device)
    shares = torch.empty(tokens, choices, device=scores.device)
    width = triton.next_power_of_2(experts)
    _route[(tokens,)](
        scores, scale, chosen, shares, EXPERTS=experts, WIDTH=width, K=choices, num_warps=1
    )
    return chosen, shares


def sort_pairs(chosen: Tensor, experts: int, block_m: int) -> tuple[Tensor, Tensor]:
    """Return the pairs in the order of their experts, and the tiles [tiles, 3]."""
    total = chosen.numel()
    order = torch.empty(total, dtype=torch.int32, device=chosen.device)
    tiles = total // block_m + experts
    table = torch.empty(tiles, 3, dtype=torch.int32, device=chosen.device)
    width = triton.next_power_of_2(experts)
    _sort[(experts,)](
        chosen, order, table, total, WIDTH=width, BLOCK_M=block_m, BLOCK=1024, num_warps=4
    )
    return order, table


def empty_small(like: Tensor, *shape: int) -> tuple[Tensor, Tensor]:
    """Return room for rows [..., columns] in float8 and for their scales, where ``like`` is."""
    out = torch.empty(*shape, dtype=torch.float8_e4m3fn, device=like.device)
    return out, torch.empty(*shape[:-1], device=like.device)


def quantise_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows in float8 and the scale of each."""
    rows, width = values.shape
    out, scales = empty_small(values, rows, width)
    block = triton.next_power_of_2(width)
    _quantise[(rows,)](values, out, scales, WIDTH=width, BLOCK=block, num_warps=4)
    return out, scales


def first_product(
    hidden: Tensor,
    gate_up: Tensor,
    order: Tensor,
    table: Tensor,
    choices: int,
    tiles: Tiles,
    scales: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Gather tokens and apply gate, up and the activation.

    Args:
        hidden: [tokens, hidden].
        gate_up: [experts, 2 * inner, hidden].
        order: of the pairs.
        table: of the tiles.
        choices: experts of a token.
        tiles: how to cut.
        scales: of float8 tokens [tokens] and weights [experts, 2 * inner].

    Returns:
        [pairs, inner], in the order of the pairs, bfloat16 where the tokens are float8.
    """
    width, inner = gate_up.shape[2], gate_up.shape[1] // 2
    kind = hidden.dtype if scales is None else torch.bfloat16
    out = torch.empty(order.shape[0], inner, dtype=kind, device=hidden.device)
    token_scale, weight_scale = scales or (hidden, hidden)
    block = tiles.first
    _first[(table.shape[0] * triton.cdiv(inner, block.columns),)](
        hidden, gate_up, out, order, table, token_scale, weight_scale,
        K=width, INNER=inner, CHOICES=choices, QUANT=scales is not None,
        BLOCK_M=tiles.tokens, BLOCK_N=block.columns, BLOCK_K=block.depth,
        num_warps=block.warps, num_stages=block.stages,
    )  # fmt: skip
    return out


def second_product(
    inner: Tensor,
    down: Tensor,
    order: Tensor,
    table: Tensor,
    tiles: Tiles,
    scales: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Apply down and put each pair where it belongs.

    Args:
        inner: [pairs, inner], in the order of the pairs.
        down: [experts, hidden, inner].
        order: of the pairs.
        table: of the tiles.
        tiles: how to cut.
        scales: of float8 pairs [pairs] and weights [experts, hidden].

    Returns:
        [pairs, hidden], token after token.
    """
    width, depth = down.shape[1:]
    kind = inner.dtype if scales is None else torch.bfloat16
    out = torch.empty(inner.shape[0], width, dtype=kind, device=inner.device)
    pair_scale, weight_scale = scales or (inner, inner)
    block = tiles.second
    _second[(table.shape[0] * triton.cdiv(width, block.columns),)](
        inner, down, out, order, table, pair_scale, weight_scale,
        K=depth, HIDDEN=width, QUANT=scales is not None,
        BLOCK_M=tiles.tokens, BLOCK_N=block.columns, BLOCK_K=block.depth,
        num_warps=block.warps, num_stages=block.stages,
    )  # fmt: skip
    return out


def run_experts(
    hidden: Tensor,
    chosen: Tensor,
    gate_up: Tensor,
    down: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
    small: Float8 | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """Run each token's chosen experts; see :func:`plain.run_experts`."""
    tokens, choices = chosen.shape
    experts, width, _ = down.shape
    tiles = tiles or pick_tiles(tokens, choices, experts)
    order, table = sort_pairs(chosen, experts, tiles.tokens)
    if scales is None:
        inner = first_product(hidden, gate_up, order, table, choices, tiles)
        out = second_product(inner, down, order, table, tiles)
    else:
        given = small or Float8(*quantise_rows(hidden))
        both = (given.scales, scales[0])
        inner = first_product(given.values, gate_up, order, table, choices, tiles, both)
        # Not within the product: a row's largest value is known when all its columns are.
        values, inner_scales = quantise_rows(inner)
        out = second_product(values, down, order, table, tiles, (inner_scales, scales[1]))
    return out.view(tokens, choices, width)


__all__ = [
    "LARGE",
    "MEDIUM",
    "SMALL",
    "Block",
    "Tiles",
    "empty_small",
    "first_product",
    "pick_tiles",
    "quantise_rows",
    "route",
    "run_experts",
    "second_product",
    "sort_pairs",
    "store_small",
]
