"""Every operation of a denoising step in plain PyTorch: what the Triton kernels must agree with.

These run on any device. They are the path on a CPU, and the reference in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stream_server.recogniser.quantise import Float8


@dataclass(frozen=True, slots=True)
class VocabularyPass:
    """What one pass over the scores tells; all [tokens]."""

    argmax: Tensor
    sampled: Tensor
    entropy: Tensor
    """Nats, at the step's temperature."""
    probability: Tensor
    """Of the arg-max, without temperature."""
    floats: Tensor
    """[tokens, 4]: entropy, probability, largest soft-capped score, sum of exp relative to it."""
    places: Tensor | None = None
    """[tokens, top], the likeliest words, if asked for."""
    weights: Tensor | None = None
    """[tokens, top], their shares among themselves."""


def read_vocabulary(
    scores: Tensor, heat: Tensor, uniform: Tensor, cap: float, top: int = 0
) -> VocabularyPass:
    """Soft-cap, sample, and describe each token's distribution.

    Args:
        scores: [tokens, vocabulary], before the soft cap.
        heat: [tokens], temperature.
        uniform: [tokens], random numbers in [0, 1): the sample is the first word at which the
            distribution function exceeds the number.
        cap: scores become ``cap * tanh(score / cap)``.
        top: how many of the likeliest words to return; 0 for none.
    """
    value = torch.tanh(scores.float() / cap) * cap
    peak, argmax = value.max(dim=1)
    relative = value - peak[:, None]
    cold = relative.exp().sum(dim=1)
    scaled = relative / heat[:, None]
    weight = scaled.exp()
    reached = weight.cumsum(dim=1)
    mass = reached[:, -1]
    entropy = mass.log() - (weight * scaled).sum(dim=1) / mass
    goal = (uniform * mass)[:, None]
    # Rounding may leave the number behind the last word.
    sampled = torch.searchsorted(reached, goal, right=True)[:, 0].clamp(max=scores.shape[1] - 1)
    places = weights = None
    if top:
        raw, places = value.topk(top, dim=1)
        weights = torch.softmax(raw / heat[:, None], dim=1)
    floats = torch.stack([entropy, 1 / cold, peak, mass], dim=1)
    return VocabularyPass(argmax, sampled, entropy, floats[:, 1], floats, places, weights)


def spread(scores: Tensor, heat: Tensor, done: VocabularyPass, cap: float) -> Tensor:
    """Return the distributions [tokens, vocabulary] at their temperatures, in scores' precision.

    ``scores`` may be overwritten.
    """
    value = torch.tanh(scores.float() / cap) * cap - done.floats[:, 2:3]
    return ((value / heat[:, None]).exp() / done.floats[:, 3:4]).to(scores.dtype)


def mix_embeddings(table: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sums [tokens, hidden] of rows of ``table``."""
    mixed = torch.einsum("tk,tkh->th", weights, table[places].float())
    return mixed.to(table.dtype)


def norm(hidden: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """RMS-normalise the last dimension."""
    return functional.rms_norm(hidden, (hidden.shape[-1],), weight, eps)


def gate_small(both: Tensor) -> tuple[Tensor, Float8]:
    """Return :func:`gate`, and the same in float8."""
    out = gate(both)
    return out, Float8.of(out)


def gate(both: Tensor) -> Tensor:
    """Return ``gelu(first half) * second half`` of the last dimension."""
    first, second = both.chunk(2, dim=-1)
    return functional.gelu(first, approximate="tanh") * second


def route(scores: Tensor, scale: Tensor, choices: int) -> tuple[Tensor, Tensor]:
    """Choose experts.

    Args:
        scores: [tokens, experts], of the router.
        scale: [experts], a factor on each expert's share.
        choices: experts of a token.

    Returns:
        The experts [tokens, choices] and their shares, float32.
    """
    likely, chosen = scores.float().softmax(dim=-1).topk(choices, dim=-1)
    shares = likely / likely.sum(dim=-1, keepdim=True)
    return chosen, shares * scale[chosen]


def run_experts(
    hidden: Tensor,
    chosen: Tensor,
    gate_up: Tensor,
    down: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
    small: Float8 | None = None,
) -> Tensor:
    """Run each token's chosen experts.

    Args:
        hidden: [tokens, hidden].
        chosen: [tokens, choices], experts.
        gate_up: [experts, 2 * inner, hidden].
        down: [experts, hidden, inner].
        scales: of float8 weights, [experts, 2 * inner] and [experts, hidden].
        small: ``hidden`` in float8, if it is there already.

    Returns:
        [tokens, choices, hidden], before the shares.
    """
    if small is not None:
        hidden = small.wide(hidden.dtype)
    if scales is not None:
        gate_up = (gate_up.float() * scales[0][..., None]).to(hidden.dtype)
        down = (down.float() * scales[1][..., None]).to(hidden.dtype)
    # Every expert on every token, then the choice: right, and fast for a handful of experts.
    inner = gate(torch.matmul(hidden, gate_up.transpose(1, 2)))
    everything = torch.matmul(inner, down.transpose(1, 2))
    tokens = torch.arange(hidden.shape[0], device=hidden.device)[:, None]
    return everything[chosen.long(), tokens]


def grouped_experts(
    hidden: Tensor,
    chosen: Tensor,
    gate_up: Tensor,
    down: Tensor,
    scales: tuple[Tensor, Tensor] | None = None,
    small: Float8 | None = None,
) -> Tensor:
    """Do what :func:`run_experts` does with PyTorch's grouped products: for many experts."""
    if small is not None:
        hidden = small.wide(hidden.dtype)
    if scales is not None:
        gate_up = (gate_up.float() * scales[0][..., None]).to(hidden.dtype)
        down = (down.float() * scales[1][..., None]).to(hidden.dtype)
    tokens, choices = chosen.shape
    ordered, order = chosen.reshape(-1).sort()
    experts = torch.arange(gate_up.shape[0], device=hidden.device, dtype=ordered.dtype)
    ends = torch.searchsorted(ordered, experts, right=True).int()
    gathered = hidden[order // choices]
    inner = gate(torch._grouped_mm(gathered, gate_up.transpose(1, 2), offs=ends))
    out = torch._grouped_mm(inner, down.transpose(1, 2), offs=ends)
    places = torch.empty_like(out)
    places[order] = out
    return places.view(tokens, choices, -1)


@dataclass(frozen=True, slots=True)
class Rotary:
    """Cosines and sines of positions, [positions, head size], in the model's precision."""

    cosine: Tensor
    sine: Tensor


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tokens of a call stand: row after row, ``width`` tokens each."""

    rows: int
    width: int
    heads: int
    """Query heads; 0 until a layer says it."""
    slots: Tensor
    """[rows], whose keys and values."""
    starts: Tensor
    """[rows], position of the first token."""
    ends: Tensor
    """[rows], keys that there are, the tokens' own included."""
    is_causal: bool
    """Prompts see what is before them; canvases see everything."""


def after_attention(
    attended: Tensor, residual: Tensor, weights: Tensor, eps: float, is_small: bool = False
) -> tuple[Tensor, Tensor, tuple[Float8, Float8] | None]:
    """Add attention to the residual and normalise what comes next.

    Args:
        attended: [tokens, hidden].
        residual: [tokens, hidden].
        weights: [4, hidden], of the norms after attention, before the dense layer, before the
            experts, and before the router (its scale and root size included).
        eps: of the norms.
        is_small: whether dense layer and experts take float8.

    Returns:
        The new residual, [3, tokens, hidden] for dense layer, experts and router, and the first
        two of them in float8, if that is wanted.
    """
    hidden = residual + norm(attended, weights[0], eps)
    outs = norm(hidden, None, eps) * weights[1:, None]
    return hidden, outs, (Float8.of(outs[0]), Float8.of(outs[1])) if is_small else None


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
    """Join the dense layer and the experts, and normalise for the next layer.

    Args:
        dense: [tokens, hidden].
        pairs: [tokens, choices, hidden].
        shares: [tokens, choices].
        residual: [tokens, hidden].
        weights: [4, hidden], of the norms after the dense layer, after the experts, after both,
            and of the next layer's first.
        scalar: [1], the layer's, or [tokens].
        eps: of the norms.
        is_small: whether the next layer takes float8.

    Returns:
        The new residual, its norm, and the norm in float8, if that is wanted.
    """
    mixed = (pairs.float() * shares[..., None]).sum(dim=1).to(residual.dtype)
    joined = norm(dense, weights[0], eps) + norm(mixed, weights[1], eps)
    hidden = (residual + norm(joined, weights[2], eps)) * scalar[:, None]
    normed = norm(hidden, weights[3], eps)
    return hidden, normed, Float8.of(normed) if is_small else None


def _turn(hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = hidden.chunk(2, dim=-1)
    return hidden * cosine + torch.cat([-second, first], dim=-1) * sine


def rotate(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor],
    rotary: Rotary,
    caches: tuple[Tensor, Tensor],
    place: Place,
    eps: float,
) -> Tensor:
    """Normalise and rotate queries and keys, and write keys and values where they belong.

    Args:
        qkv: [tokens, columns]: query heads, key heads, and value heads, if values are not keys.
        norms: weights of the norms of queries and keys, [head size].
        rotary: of all positions.
        caches: keys and values, each [slots, groups, capacity, head size]; written to.
        place: where the tokens stand.
        eps: of the norms.

    Returns:
        Queries [rows, heads, width, head size].
    """
    keys, values = caches
    groups, size = keys.shape[1], keys.shape[3]
    parts = qkv.view(place.rows, place.width, -1, size)
    query = norm(parts[:, :, : place.heads], norms[0], eps)
    raw = parts[:, :, place.heads : place.heads + groups]
    position = place.starts[:, None] + torch.arange(place.width, device=qkv.device)
    cosine, sine = rotary.cosine[position][:, :, None], rotary.sine[position][:, :, None]
    slots = place.slots[:, None]
    keys[slots, :, position] = _turn(norm(raw, norms[1], eps), cosine, sine)
    values[slots, :, position] = norm(parts[:, :, -groups:], None, eps)
    return _turn(query, cosine, sine).transpose(1, 2)


def attend(query: Tensor, caches: tuple[Tensor, Tensor], place: Place) -> Tensor:
    """Attend to a row's keys.

    Args:
        query: [rows, heads, width, head size].
        caches: keys and values, each [slots, groups, capacity, head size].
        place: where the tokens stand.

    Returns:
        [tokens, heads * head size].
    """
    rows, heads, width, size = query.shape
    groups = caches[0].shape[1]
    longest = int(place.ends.max()) if query.device.type == "cpu" else caches[0].shape[2]
    keys, values = (cache[place.slots, :, :longest] for cache in caches)
    # The heads of a group as one longer query: keys are not expanded.
    folded = query.reshape(rows, groups, heads // groups * width, size)
    near = torch.arange(longest, device=query.device)
    mask = (near < place.ends[:, None])[:, None, None]
    if place.is_causal:
        position = place.starts[:, None] + torch.arange(width, device=query.device)
        causal = near <= position[..., None]
        mask = mask & causal.repeat(1, heads // groups, 1)[:, None]
    attended = functional.scaled_dot_product_attention(
        folded, keys, values, attn_mask=mask, scale=1.0
    )
    return attended.view(rows, heads, width, size).transpose(1, 2).reshape(rows * width, -1)


__all__ = [
    "Place",
    "Rotary",
    "VocabularyPass",
    "after_attention",
    "after_experts",
    "attend",
    "gate",
    "gate_small",
    "grouped_experts",
    "mix_embeddings",
    "norm",
    "read_vocabulary",
    "rotate",
    "route",
    "run_experts",
    "spread",
]
