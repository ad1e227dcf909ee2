"""The pass over the vocabulary in Triton: see ``plain.read_vocabulary`` for what it computes.

The scores are read in their own precision and never widened in memory. A token's scores are split
over several programs, each of which keeps running sums (Milakov and Gimelshein, 2018); a second
kernel merges the parts and draws the sample by inverting the distribution function, which takes
one random number a token instead of one for each word of the vocabulary. The third, optional,
writes the distribution over the scores, for self-conditioning.
"""

# Triton reads its kernels' source, and its names are not typed.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stream_server.recogniser.kernels.plain import VocabularyPass

GROUP = 128
"""Scores of which the largest is kept, to find the top of the distribution."""


@triton.jit
def _capped(at, mask, CAP: tl.constexpr):
    """Load scores and soft-cap them; tanh by way of exp, exact to float32's rounding."""
    raw = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    tanh = 1.0 - 2.0 / (tl.exp(raw * (2.0 / CAP)) + 1.0)
    return tl.where(mask, tanh * CAP, float("-inf"))


@triton.jit
def _scan(
    scores, heat, parts, best, tops, vocabulary,
    CAP: tl.constexpr, SPLITS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
    GROUPS: tl.constexpr, WITH_TOPS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    split = tl.program_id(1)
    row = scores + token.to(tl.int64) * vocabulary
    inverse = 1.0 / tl.load(heat + token)
    lanes = tl.arange(0, BLOCK)
    peak = float("-inf")
    winner = 0
    mass = tl.zeros([BLOCK], tl.float32)
    moment = tl.zeros([BLOCK], tl.float32)
    cold = tl.zeros([BLOCK], tl.float32)
    for first in range(0, CHUNK, BLOCK):
        at = split * CHUNK + first + lanes
        mask = at < vocabulary
        value = _capped(row + at, mask, CAP)
        top = tl.max(value, axis=0)
        place = split * CHUNK + first + tl.argmax(value, axis=0)
        winner = tl.where(top > peak, place, winner)
        higher = tl.maximum(peak, top)
        # Sums are kept relative to the peak so far.
        shrink = tl.exp((peak - higher) * inverse)
        weight = tl.exp((value - higher) * inverse)
        mass = mass * shrink + weight
        moment = moment * shrink + weight * tl.where(mask, value, 0.0)
        cold = cold * tl.exp(peak - higher) + tl.exp(value - higher)
        peak = higher
        if WITH_TOPS:
            folded = tl.max(tl.reshape(value, [BLOCK // WIDE, WIDE]), axis=1)
            group = (split * CHUNK + first) // WIDE + tl.arange(0, BLOCK // WIDE)
            tl.store(tops + token.to(tl.int64) * GROUPS + group, folded, mask=group < GROUPS)
    out = parts + (token * SPLITS + split) * 4
    tl.store(out, peak)
    tl.store(out + 1, tl.sum(mass, axis=0))
    tl.store(out + 2, tl.sum(moment, axis=0))
    tl.store(out + 3, tl.sum(cold, axis=0))
    tl.store(best + token * SPLITS + split, winner)


@triton.jit
def _choose(
    scores, heat, uniform, parts, best, floats, tokens, vocabulary,
    CAP: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    temperature = tl.load(heat + token)
    inverse = 1.0 / temperature
    splits = tl.arange(0, WIDTH)
    there = splits < SPLITS
    base = parts + (token * SPLITS + splits) * 4
    peaks = tl.load(base, mask=there, other=float("-inf"))
    masses = tl.load(base + 1, mask=there, other=0.0)
    moments = tl.load(base + 2, mask=there, other=0.0)
    colds = tl.load(base + 3, mask=there, other=0.0)
    peak = tl.max(peaks, axis=0)
    leader = tl.argmax(peaks, axis=0)
    share = tl.where(there, tl.exp((peaks - peak) * inverse), 0.0)
    mass = tl.sum(masses * share, axis=0)
    moment = tl.sum(moments * share, axis=0)
    cold = tl.sum(tl.where(there, colds * tl.exp(peaks - peak), 0.0), axis=0)
    tl.store(floats + token * 4, (peak - moment / mass) * inverse + tl.log(mass))
    tl.store(floats + token * 4 + 1, 1.0 / cold)
    tl.store(floats + token * 4 + 2, peak)
    tl.store(floats + token * 4 + 3, mass)
    tl.store(tokens + token * 2, tl.load(best + token * SPLITS + leader))

    # The sample: the split in which the distribution function passes the random number, then
    # the word in that split. Rounding may leave the number behind the last word.
    goal = tl.load(uniform + token) * mass
    reached = tl.cumsum(masses * share, axis=0)
    split = tl.minimum(tl.sum((reached <= goal).to(tl.int32), axis=0), SPLITS - 1)
    before = tl.sum(tl.where(splits < split, masses * share, 0.0), axis=0)
    row = scores + token.to(tl.int64) * vocabulary
    lanes = tl.arange(0, BLOCK)
    found = 2147483647
    last = 0
    for first in range(0, CHUNK, BLOCK):
        at = split * CHUNK + first + lanes
        value = _capped(row + at, at < vocabulary, CAP)
        weight = tl.exp((value - peak) * inverse)
        passed = (before + tl.cumsum(weight, axis=0) > goal) & (weight > 0)
        found = tl.minimum(found, tl.min(tl.where(passed, at, 2147483647), axis=0))
        last = tl.maximum(last, tl.max(tl.where(weight > 0, at, 0), axis=0))
        before += tl.sum(weight, axis=0)
    tl.store(tokens + token * 2 + 1, tl.minimum(found, last))


@triton.jit
def _spread(
    scores, heat, floats, vocabulary, CAP: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < vocabulary
    row = scores + token.to(tl.int64) * vocabulary + at
    inverse = 1.0 / tl.load(heat + token)
    peak = tl.load(floats + token * 4 + 2)
    mass = tl.load(floats + token * 4 + 3)
    value = tl.exp((_capped(row, mask, CAP) - peak) * inverse) / mass
    tl.store(row, value.to(scores.dtype.element_ty), mask=mask)


@triton.jit
def _mix(
    table, places, weights, out, hidden, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < hidden
    total = tl.zeros([BLOCK], tl.float32)
    for k in range(K):
        place = tl.load(places + token * K + k).to(tl.int64)
        weight = tl.load(weights + token * K + k)
        total += weight * tl.load(table + place * hidden + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + token.to(tl.int64) * hidden + at, total.to(out.dtype.element_ty), mask=mask)


def read_vocabulary(
    scores: Tensor, heat: Tensor, uniform: Tensor, cap: float, top: int = 0
) -> VocabularyPass:
    """See :func:`plain.read_vocabulary`."""
    tokens, vocabulary = scores.shape
    # Enough programs to fill the chip at few tokens, few parts to merge at many.
    chunk = 16384 if vocabulary > 16384 else max(1024, triton.next_power_of_2(vocabulary))
    block = min(2048, chunk)
    splits = triton.cdiv(vocabulary, chunk)
    groups = triton.cdiv(vocabulary, GROUP)
    device = scores.device
    parts = torch.empty(tokens, splits, 4, device=device)
    best = torch.empty(tokens, splits, dtype=torch.int32, device=device)
    tops = torch.empty(tokens, groups if top else 1, device=device)
    floats = torch.empty(tokens, 4, device=device)
    chosen = torch.empty(tokens, 2, dtype=torch.int32, device=device)
    _scan[(tokens, splits)](
        scores, heat, parts, best, tops, vocabulary,
        CAP=cap, SPLITS=splits, CHUNK=chunk, BLOCK=block, GROUPS=groups, WITH_TOPS=bool(top),
        WIDE=GROUP, num_warps=8,
    )  # fmt: skip
    _choose[(tokens,)](
        scores, heat, uniform, parts, best, floats, chosen, vocabulary,
        CAP=cap, SPLITS=splits, WIDTH=triton.next_power_of_2(splits), CHUNK=chunk, BLOCK=block,
        num_warps=8,
    )  # fmt: skip
    places = weights = None
    if top:
        places, weights = _top(scores, heat, floats, tops, cap, top)
    return VocabularyPass(
        chosen[:, 0], chosen[:, 1], floats[:, 0], floats[:, 1], floats, places, weights
    )


def _top(
    scores: Tensor, heat: Tensor, floats: Tensor, tops: Tensor, cap: float, top: int
) -> tuple[Tensor, Tensor]:
    """Return the ``top`` likeliest words and their shares.

    They are all in those ``top`` groups whose own largest score is largest.
    """
    tokens, vocabulary = scores.shape
    groups = tops.topk(min(top, tops.shape[1]), dim=1, sorted=False).indices
    inside = torch.arange(GROUP, device=scores.device)
    at = (groups[..., None] * GROUP + inside).view(tokens, -1)
    near = scores.gather(1, at.clamp(max=vocabulary - 1)).float()
    near = near.masked_fill(at >= vocabulary, -torch.inf)
    raw, index = near.topk(top, dim=1)
    value = torch.tanh(raw / cap) * cap
    weights = torch.softmax(value / heat[:, None], dim=1)
    return at.gather(1, index), weights


def spread(scores: Tensor, heat: Tensor, done: VocabularyPass, cap: float) -> Tensor:
    """Replace ``scores`` by the distribution they mean; see :func:`plain.spread`."""
    tokens, vocabulary = scores.shape
    _spread[(tokens, triton.cdiv(vocabulary, 4096))](
        scores, heat, done.floats, vocabulary, CAP=cap, BLOCK=4096, num_warps=8
    )
    return scores


def mix_embeddings(table: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """See :func:`plain.mix_embeddings`."""
    tokens, top = places.shape
    hidden = table.shape[1]
    out = torch.empty(tokens, hidden, dtype=table.dtype, device=table.device)
    _mix[(tokens, triton.cdiv(hidden, 512))](
        table, places, weights, out, hidden, K=top, BLOCK=512, num_warps=4
    )
    return out


__all__ = ["GROUP", "mix_embeddings", "read_vocabulary", "spread"]
