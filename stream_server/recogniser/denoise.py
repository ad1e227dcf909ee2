"""Discrete diffusion, one step at a time: what happens between two decoder calls.

Uniform (:func:`advance`): a canvas starts as uniform-random tokens (or as a draft). Each step
samples every position from the decoder's prediction, keeps the positions of lowest entropy as far
as an entropy bound allows (Ben-Hamu et al., 2025, arXiv 2505.24857) and draws the others anew.
There is no mask token. The text is the arg-max canvas of the last step. Defaults are
DiffusionGemma's own.

Absorbing (:func:`reveal`; masked diffusion, as in Whisfusion, arXiv 2508.07048): a canvas starts
as masks. Each step replaces the share of them that is due by the tokens predicted with most
confidence (MaskGIT, arXiv 2202.04200), and what was replaced once stays. So a draft, which may be
wrong, is not used.

Everything here is per row: rows of different step counts, lengths and temperatures share a call,
and the noise of a row comes from its own generator, so a row does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stream_server.recogniser.memory import ship
from stream_server.recogniser.tokenizer import UNKNOWN

MASK = UNKNOWN
"""The absorbing state. No text has this token, so none needs to be added to a vocabulary."""
SCHEMES = ("uniform", "absorbing")
_NEVER = -1e4
"""Score of a token that is not to be predicted; finite, so that entropies are."""


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """How a canvas is refined."""

    entropy_bound: float = 0.1
    """Nats; joint entropy up to which positions are accepted together."""
    t_min: float = 0.4
    """Temperature towards which the last steps go."""
    t_max: float = 0.8
    """Temperature of the first step."""
    stability: int = 1
    """Steps for which the arg-max canvas must not have changed before a row may stop."""
    confidence: float = 0.005
    """Nats; mean entropy of the text under which a stable row stops."""
    start: str = "noise"
    """What a canvas without a draft starts from: ``noise`` or ``ctc``."""
    scheme: str = "uniform"
    """One of :data:`SCHEMES`; how the network was trained."""

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(f"sampler.scheme={self.scheme!r} is not one of {', '.join(SCHEMES)}")

    @property
    def is_absorbing(self) -> bool:
        """Whether noise is a mask."""
        return self.scheme == "absorbing"


@dataclass(frozen=True, slots=True)
class StepInput:
    """Rows before a step, prompts apart."""

    canvas: Tensor
    """[rows, canvas], tokens."""
    sizes: tuple[int, ...]
    """Canvas positions of each row; those behind are padding and seen by nobody."""
    conditioning: Tensor
    """[rows, canvas, features], what the last step left for self-conditioning; zero where none."""
    conditioned: tuple[bool, ...]
    """Which rows have such."""
    temperature: Tensor
    """[rows]."""
    generators: tuple[torch.Generator, ...]
    """The noise of each row."""
    left: tuple[int, ...] = ()
    """Steps of each row that follow this one; only the absorbing scheme asks."""
    evidence: Tensor | None = None
    """[rows, canvas, vocabulary], what CTC adds to the decoder's scores; none where nothing."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made of the canvases."""

    canvas: Tensor
    """[rows, canvas], for the next step."""
    argmax: Tensor
    """[rows, canvas], the present best text."""
    conditioning: Tensor
    """[rows, canvas, features], for self-conditioning: temperature-scaled scores, or what a
    network makes of them."""
    entropy: Tensor
    """[rows, canvas], nats."""
    probability: Tensor
    """[rows, canvas], of the arg-max token, without temperature."""
    accepted: Tensor
    """[rows, canvas], which positions were kept."""


@dataclass(frozen=True, slots=True)
class Noise:
    """A step's randomness, drawn before it."""

    gumbel: Tensor
    """[rows, canvas, vocabulary]."""
    tokens: Tensor
    """[rows, canvas], uniform over the vocabulary."""


def temperatures(
    steps_done: Sequence[int], steps: Sequence[int], config: SamplerConfig, device: torch.device
) -> Tensor:
    """Return the temperature of each row's next step, [rows].

    Linear in the steps that remain, this one included: of 8 steps the first runs at ``t_max`` and
    the last an eighth of the way above ``t_min``, as in transformers.
    """
    spread = config.t_max - config.t_min
    values = [
        config.t_min + spread * (total - done) / total
        for done, total in zip(steps_done, steps, strict=True)
    ]
    return ship(torch.tensor(values), device)


def draw_noise(
    generators: Sequence[torch.Generator], sizes: Sequence[int], vocabulary: int
) -> Noise:
    """Draw the noise of one step: each row its own, of its own canvas's size, zero behind it."""
    width = max(sizes)
    gumbel = []
    tokens = []
    for generator, size in zip(generators, sizes, strict=True):
        uniform = torch.rand(size, vocabulary, generator=generator, device=generator.device)
        drawn = -torch.log((-torch.log(uniform.clamp(min=1e-10))).clamp(min=1e-10))
        gumbel.append(functional.pad(drawn, (0, 0, 0, width - size)))
        chosen = random_tokens(generator, size, vocabulary)
        tokens.append(functional.pad(chosen, (0, width - size)))
    return Noise(torch.stack(gumbel), torch.stack(tokens))


def random_tokens(generator: torch.Generator, width: int, vocabulary: int) -> Tensor:
    """Return [width] tokens, uniform over the vocabulary."""
    return torch.randint(vocabulary, (width,), generator=generator, device=generator.device)


def accept(entropy: Tensor, valid: Tensor, bound: float) -> Tensor:
    """Return which positions to keep, [rows, canvas].

    The k positions of lowest entropy such that their summed entropy less the largest of them is
    at most ``bound``: an upper bound on what they tell of each other.
    """
    ordered, order = entropy.masked_fill(~valid, torch.inf).sort(dim=-1)
    before = torch.cumsum(ordered, dim=-1) - ordered
    keep = (before <= bound) & ordered.isfinite()
    return torch.zeros_like(keep).scatter(-1, order, keep)


def advance(
    logits: Tensor, temperature: Tensor, lengths: Tensor, noise: Noise, config: SamplerConfig
) -> StepResult:
    """Turn the decoder's scores into the next canvas.

    Args:
        logits: [rows, canvas, vocabulary], soft-capped, float32.
        temperature: [rows].
        lengths: [rows], canvas positions of each row; those behind are ignored.
        noise: the step's randomness.
        config: the sampler.
    """
    valid = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]
    scaled = logits / temperature[:, None, None]
    logs = scaled.log_softmax(dim=-1)
    entropy = -(logs.exp() * logs).sum(dim=-1)
    argmax = logits.argmax(dim=-1)
    probability = (logits.amax(dim=-1) - logits.logsumexp(dim=-1)).exp()
    sampled = (scaled + noise.gumbel).argmax(dim=-1)
    accepted = accept(entropy, valid, config.entropy_bound)
    canvas = torch.where(accepted, sampled, noise.tokens)
    return StepResult(canvas, argmax, scaled, entropy, probability, accepted)


def reveal(
    logits: Tensor, canvas: Tensor, temperature: Tensor, lengths: Tensor, left: Tensor
) -> StepResult:
    """Turn the decoder's scores into the next canvas of the absorbing scheme.

    Args:
        logits: [rows, canvas, vocabulary], soft-capped, float32.
        canvas: [rows, canvas], what the decoder saw.
        temperature: [rows], of self-conditioning; the choice is greedy.
        lengths: [rows], canvas positions of each row; those behind are ignored.
        left: [rows], steps that follow this one; with none, no mask is left.
    """
    masked = (torch.arange(canvas.shape[1], device=canvas.device) < lengths[:, None]) & (
        canvas == MASK
    )
    allowed = logits.index_fill(-1, torch.tensor([MASK], device=logits.device), _NEVER)
    logs = allowed.log_softmax(dim=-1)
    argmax = torch.where(canvas == MASK, logs.argmax(dim=-1), canvas)
    probability = logs.gather(-1, argmax[..., None])[..., 0].exp()
    entropy = torch.where(masked, -(logs.exp() * logs).sum(dim=-1), 0.0)
    remaining = masked.sum(dim=-1)
    due = remaining - torch.div(remaining * left, left + 1, rounding_mode="floor")
    order = probability.masked_fill(~masked, -1.0).argsort(dim=-1, descending=True, stable=True)
    first = torch.arange(canvas.shape[1], device=canvas.device) < due[:, None]
    shown = torch.zeros_like(masked).scatter(-1, order, first) & masked
    scaled = allowed / temperature[:, None, None]
    return StepResult(
        torch.where(shown, argmax, canvas), argmax, scaled, entropy, probability, shown
    )


def text_length(tokens: Sequence[int], ends: Collection[int]) -> int:
    """Return how many tokens stand before an end of text; all of them where there is none."""
    return next((place for place, token in enumerate(tokens) if token in ends), len(tokens))


__all__ = [
    "MASK",
    "SCHEMES",
    "Noise",
    "SamplerConfig",
    "StepInput",
    "StepResult",
    "accept",
    "advance",
    "draw_noise",
    "random_tokens",
    "reveal",
    "temperatures",
    "text_length",
]
