"""A draft of the text from CTC: several candidates, and how CTC guides the steps that follow.

Prefix beam search (Hannun et al., 2014, arXiv 1408.2873) gives candidates; the causal half of the
decoder, which the autoregressive loss has trained, then says which of them reads best (rescoring,
as in hybrid CTC/attention decoding, Watanabe et al., 2017). NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logs = npt.NDArray[np.float32]

_NEVER = -1e9
_SURE = -0.01
"""Log-probability of the blank over which a frame is taken for silence."""
_FLOOR = -10.0
"""What a word that CTC did not hear at all costs, times the guidance."""
_FAR = -6.0
"""Log-probability under which a token does not extend a candidate."""


@dataclass(frozen=True, slots=True)
class DraftConfig:
    """How a draft is made, and what weight it has."""

    candidates: int = 1
    """Texts between which the causal half chooses; 1 takes CTC's best path."""
    beam: int = 16
    """Prefixes that are kept from frame to frame."""
    causal: float = 0.7
    """Weight of the causal half's log-probability beside CTC's."""
    guidance: float = 0.0
    """Weight of CTC's scores beside the decoder's in every step from a CTC draft; 0 is none.

    A product of experts, as arXiv 2604.14001 decodes a uniform-state diffusion model with CTC.
    """


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that CTC may have heard."""

    tokens: tuple[int, ...]
    score: float
    """Log-probability, over the alignments that the beam kept."""


def _extend(
    beam: dict[tuple[int, ...], tuple[float, float]], frame: Logs, tokens: Sequence[int]
) -> dict[tuple[int, ...], tuple[float, float]]:
    """Return the prefixes after one more frame, and how probable each is by its last class."""
    grown: dict[tuple[int, ...], tuple[float, float]] = {}
    for prefix, (blank, said) in beam.items():
        total = float(np.logaddexp(blank, said))
        old_blank, old_said = grown.get(prefix, (_NEVER, _NEVER))
        old_blank = float(np.logaddexp(old_blank, total + frame[0]))
        if prefix:
            old_said = float(np.logaddexp(old_said, said + frame[prefix[-1]]))
        grown[prefix] = (old_blank, old_said)
        for token in tokens:
            longer = (*prefix, token)
            old_blank, old_said = grown.get(longer, (_NEVER, _NEVER))
            before = blank if prefix and prefix[-1] == token else total
            grown[longer] = (old_blank, float(np.logaddexp(old_said, before + frame[token])))
    return grown


def beam_search(logs: Logs, config: DraftConfig) -> list[Candidate]:
    """Return the most probable texts, the best first.

    Args:
        logs: [frames, vocabulary], log-probabilities; blank is token 0.
        config: how many, and how wide.
    """
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, _NEVER)}

    def total(item: tuple[tuple[int, ...], tuple[float, float]]) -> float:
        return float(np.logaddexp(*item[1]))

    for frame in logs:
        tokens: list[int] = []
        if frame[0] < _SURE:
            likely = np.argpartition(-frame, 6)[:6] if len(frame) > 6 else np.arange(len(frame))
            tokens = [int(token) for token in likely if token != 0 and frame[token] > _FAR]
        beam = _extend(beam, frame, tokens)
        if len(beam) > config.beam:
            beam = dict(sorted(beam.items(), key=total, reverse=True)[: config.beam])
    found = [Candidate(prefix, total((prefix, ends))) for prefix, ends in beam.items()]
    possible = [each for each in found if each.score > _NEVER / 2]
    return sorted(possible, key=lambda each: each.score, reverse=True)[: config.candidates]


def evidence(
    logs: Logs, spans: Sequence[tuple[int, int]], width: int, end: int, weight: float
) -> Logs:
    """Return what CTC adds to the decoder's scores at each canvas position.

    Args:
        logs: [frames, vocabulary].
        spans: first frame and frame after the last of each token of the draft.
        width: positions of the canvas.
        end: the token that ends a text.
        weight: see :attr:`DraftConfig.guidance`.

    Returns:
        [width, vocabulary]; behind the draft, the end of text is what CTC heard.
    """
    scores = np.full((width, logs.shape[1]), _FLOOR, dtype=np.float32)
    for place, (first, last) in enumerate(spans[:width]):
        heard = np.logaddexp.reduce(logs[first:last], axis=0)
        heard[0] = _FLOOR
        heard = heard - np.logaddexp.reduce(heard[1:])
        scores[place] = np.maximum(heard, _FLOOR)
        scores[place, end] = _FLOOR / 2
    scores[len(spans) :, end] = 0.0
    return scores * weight


__all__ = ["Candidate", "DraftConfig", "Logs", "beam_search", "evidence"]
