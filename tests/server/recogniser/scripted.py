"""What the tests of the recogniser share: sound, decodes to their end, a decoder by script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stream_server.recogniser.interface import Hypothesis, Pcm, Utterance
from stream_server.recogniser.model import TranscriptionModel
from stream_server.recogniser.recogniser import DiffusionRecogniser, DiffusionRow
from stream_server.recogniser.tokenizer import END

CPU = torch.device("cpu")
SURE, UNSURE = 25.0, 3.0
"""Scores of the scripted token above all others: entropy of nothing, and of a little."""
MakeRecogniser = Callable[..., DiffusionRecogniser]


def sound(samples: int, seed: int = 0) -> Pcm:
    values = np.random.default_rng(seed).standard_normal(samples)
    swell = np.sin(np.arange(samples) / 3000 + seed) ** 2
    return (0.2 * swell * values).astype(np.float32)


def finish(recogniser: DiffusionRecogniser, *rows: DiffusionRow) -> list[list[Hypothesis]]:
    """Step rows together until each is finished; all hypotheses of each."""
    said: list[list[Hypothesis]] = [[] for _ in rows]
    for _ in range(100):
        running = [index for index, own in enumerate(said) if not (own and own[-1].is_final)]
        if not running:
            return said
        for index, hypothesis in zip(
            running, recogniser.step([rows[index] for index in running]), strict=True
        ):
            said[index].append(hypothesis)
    raise AssertionError("a row is never finished")


def decode(recogniser: DiffusionRecogniser, utterance: Utterance) -> list[Hypothesis]:
    """All hypotheses of an utterance alone."""
    rows = recogniser.start([utterance])
    (said,) = finish(recogniser, *rows)
    recogniser.release(rows)
    return said


@dataclass(slots=True)
class Script:
    """Stands for the decoder: says a canvas at each call, with a score for each position."""

    vocabulary: int
    say: Callable[[int, int], tuple[Sequence[int], Sequence[float]]]
    """From the call's number and the canvas's width to tokens and their scores."""
    calls: int = 0
    seen: list[Tensor] = field(default_factory=list)
    """The canvases that came in."""

    def __call__(self, canvas: Tensor, lengths: Tensor, *rest: Any) -> Tensor:
        self.seen.append(canvas.clone())
        scores = torch.zeros(*canvas.shape, self.vocabulary)
        for row, width in enumerate(lengths.tolist()):
            tokens, sharpness = self.say(self.calls, width)
            for place, (token, value) in enumerate(zip(tokens, sharpness, strict=True)):
                scores[row, place, token] = value
        self.calls += 1
        return scores


def deafen(model: TranscriptionModel) -> TranscriptionModel:
    with torch.no_grad():
        model.ctc.linear.bias[:: model.ctc.vocabulary] += 60
    return model


def sentence(tokens: Sequence[int], width: int) -> list[int]:
    """Tokens, and the end up to the canvas's end."""
    return [*tokens, *[END] * width][:width]


def sure(tokens: Sequence[int]) -> Callable[[int, int], tuple[list[int], list[float]]]:
    """A script that says the same, surely, at every call."""
    return lambda _, width: (sentence(tokens, width), [SURE] * width)
