"""A draft of the text from CTC: how it is chosen, and how CTC guides the steps that follow.

A beam search gives candidates (``beam``); the causal half of the decoder, which the autoregressive
loss has trained, then says which of them reads best (rescoring, as in hybrid CTC/attention
decoding, Watanabe et al., 2017). NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Logs = npt.NDArray[np.float32]

_TRUST = 1.0
"""Nats by which the draft's token leads what CTC heard there: the draft was chosen with more than
CTC alone knows, and a decoder that is no better than that must not take it back."""
_FLOOR = -10.0
"""What a word that CTC did not hear at all costs, times the guidance."""


@dataclass(frozen=True, slots=True)
class DraftConfig:
    """How a draft is made, and what weight it has."""

    candidates: int = 1
    """Texts between which the causal half chooses; 1 takes the best, without a language model CTC's
    best path.
    """
    beam: int = 16
    """Prefixes that are kept from frame to frame."""
    causal: float = 0.7
    """Weight of the causal half's log-probability beside CTC's; at 0 it is not asked."""
    guidance: float = 0.0
    """Weight of CTC's scores beside the decoder's in every step from a CTC draft; 0 is none.

    A product of experts, as arXiv 2604.14001 decodes a uniform-state diffusion model with CTC.
    """
    language: float = 0.0
    """Weight of the language model's log-probability beside CTC's, where a checkpoint has one."""
    token: float = 0.0
    """Nats that each token is given beside the language model, which likes short texts."""
    unknown: float = 0.0
    """Nats that a word costs that the language model does not know."""
    phones: float = 0.0
    """Share of what is heard that phones say, where a checkpoint has them; the rest is CTC's."""
    temperature: float = 1.0
    """By which CTC's scores are divided: over 1, it is less sure than training made it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that CTC may have heard."""

    tokens: tuple[int, ...]
    score: float
    """What is heard, and what the text earns."""
    heard: float
    """Log-probability over the alignments that the beam kept."""


def agreed(
    found: Sequence[Candidate], phones: npt.NDArray[np.float64], share: float
) -> list[Candidate]:
    """Return texts as CTC and phones hear them together, the best first.

    Args:
        found: as CTC hears them.
        phones: [texts], log-probabilities.
        share: see :attr:`DraftConfig.phones`.
    """
    moved = [
        replace(each, score=each.score + share * (said - each.heard))
        for each, said in zip(found, phones.tolist(), strict=True)
    ]
    return sorted(moved, key=lambda each: -each.score)


def evidence(
    logs: Logs,
    draft: Sequence[tuple[int, int, int]],
    width: int,
    end: int,
    weight: float,
) -> Logs:
    """Return what CTC and the draft add to the decoder's scores at each canvas position.

    Args:
        logs: [frames, vocabulary].
        draft: each token with its first frame and the frame after its last.
        width: positions of the canvas.
        end: the token that ends a text.
        weight: see :attr:`DraftConfig.guidance`.

    Returns:
        [width, vocabulary]; behind the draft, the end of text is what CTC heard.
    """
    scores = np.full((width, logs.shape[1]), _FLOOR, dtype=np.float32)
    for place, (token, first, last) in enumerate(draft[:width]):
        heard = np.logaddexp.reduce(logs[first:last], axis=0)
        heard[0] = _FLOOR
        heard = heard - np.logaddexp.reduce(heard[1:])
        scores[place] = np.maximum(heard - _TRUST, _FLOOR)
        scores[place, end] = _FLOOR / 2
        scores[place, token] = 0.0
    scores[len(draft) :, end] = 0.0
    return scores * weight


__all__ = ["Candidate", "DraftConfig", "Logs", "agreed", "evidence"]
