"""Word times for nothing: align the final text to the CTC frames (Viterbi, Graves et al., 2006).

NumPy only: one utterance is a few hundred frames and states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stream_server.recogniser.draft import Logs, evidence


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Where a token was said."""

    start: int
    """First CTC frame."""
    end: int
    """Frame after the last."""
    score: float
    """Geometric mean of its probability over its frames, 0 to 1: how far the audio supports it."""


class CtcFrames(Protocol):
    """What CTC heard in one utterance."""

    def draft(self) -> list[int]:
        """Return the text that was most likely said."""

    def evidence(self, draft: Sequence[int], width: int, weight: float) -> Logs | None:
        """Return what CTC adds to the decoder's scores, [width, vocabulary]; none: nothing.

        Args:
            draft: the tokens that the canvas begins with.
            width: positions of the canvas.
            weight: see ``draft.DraftConfig.guidance``.
        """

    def align(self, tokens: Sequence[int]) -> list[TokenSpan] | None:
        """Return when each token was said; none where they do not fit into the frames."""

    def read(self) -> float:
        """Ask the decoder's causal half what it gives a token of the draft, 0 to 1.

        It is asked at each call, and of brief drafts alone; 1 of others.
        """

    def sounds(self) -> float | None:
        """Return by how many nats a phone phones hear the draft, rather than nothing said.

        They are asked at each call. None where no phones are heard, or nothing is drafted.
        """


@dataclass(frozen=True, slots=True)
class DenseFrames:
    """:class:`CtcFrames` of a small vocabulary: every score is there."""

    logs: npt.NDArray[np.float32]
    """[frames, vocabulary], log-probabilities; blank is token 0."""
    text: tuple[int, ...]
    """The draft."""
    end: int
    """The token that ends a text."""
    reading: Callable[[], float] | None = None
    """See :meth:`CtcFrames.read`; none where there is nobody to ask."""
    sounding: Callable[[], float | None] | None = None
    """See :meth:`CtcFrames.sounds`."""

    def draft(self) -> list[int]:
        """See :meth:`CtcFrames.draft`."""
        return list(self.text)

    def evidence(self, draft: Sequence[int], width: int, weight: float) -> Logs | None:
        """See :meth:`CtcFrames.evidence`."""
        spans = self.align(draft)
        if spans is None or not weight:
            return None
        placed = [(token, s.start, s.end) for token, s in zip(draft, spans, strict=True)]
        return evidence(self.logs, placed, width, self.end, weight)

    def align(self, tokens: Sequence[int]) -> list[TokenSpan] | None:
        """See :func:`align`."""
        return align(self.logs, tokens)

    def read(self) -> float:
        """See :meth:`CtcFrames.read`."""
        return 1.0 if self.reading is None else self.reading()

    def sounds(self) -> float | None:
        """See :meth:`CtcFrames.sounds`."""
        return None if self.sounding is None else self.sounding()


def align(
    logs: npt.NDArray[np.float32], tokens: Sequence[int], blank: int = 0
) -> list[TokenSpan] | None:
    """Find the best path of ``tokens`` through the frames.

    Args:
        logs: [frames, vocabulary], log-probabilities.
        tokens: the text, no blanks.
        blank: the blank's token.

    Returns:
        A span for each token, in order, or none where the text does not fit into the frames.
    """
    frames = logs.shape[0]
    if not tokens:
        return []
    states = np.full(2 * len(tokens) + 1, blank)
    states[1::2] = tokens
    repeats = sum(a == b for a, b in zip(tokens[:-1], tokens[1:], strict=True))
    if frames < len(tokens) + repeats:
        return None
    emissions = logs[:, states].astype(np.float64)
    # Two cells that are never reached stand before the states, so that coming from one or two
    # states before is a view, not a copy: this runs for every utterance, between two steps.
    cells = np.full(len(states) + 2, -np.inf)
    cells[2:4] = emissions[0, :2]
    score, one, two = cells[2:], cells[1:-1], cells[:-2]
    blocked = np.full(len(states), -np.inf)
    blocked[3::2] = np.where(states[3::2] != states[1:-2:2], 0.0, -np.inf)
    by_one = np.zeros((frames, len(states)), dtype=bool)
    by_two = np.zeros((frames, len(states)), dtype=bool)
    skipped, best = np.empty(len(states)), np.empty(len(states))
    for frame in range(1, frames):
        np.greater(one, score, out=by_one[frame])
        np.maximum(one, score, out=best)
        np.add(two, blocked, out=skipped)
        np.greater(skipped, best, out=by_two[frame])
        np.maximum(skipped, best, out=best)
        np.add(best, emissions[frame], out=score)
    back = np.where(by_two, 2, by_one)
    state = len(states) - 1 if score[-1] >= score[-2] else len(states) - 2
    path = np.zeros(frames, dtype=np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state -= int(back[frame, state])
    spans = []
    for place in range(len(tokens)):
        at = np.flatnonzero(path == 2 * place + 1)
        mean = float(np.exp(emissions[at, 2 * place + 1].mean()))
        spans.append(TokenSpan(int(at[0]), int(at[-1]) + 1, mean))
    return spans


def greedy(logs: npt.NDArray[np.float32], blank: int = 0) -> list[int]:
    """Return the tokens of the best path: a draft of the text."""
    best = logs.argmax(axis=1)
    keep = (best != blank) & (np.concatenate([[-1], best[:-1]]) != best)
    return [int(token) for token in best[keep]]


__all__ = ["CtcFrames", "DenseFrames", "TokenSpan", "align", "greedy"]
