"""Whole clips through a recogniser: what it hears and how long it takes.

The clips are cut as the segmenter would cut them in service, but nothing of the service is in
between: ``streaming`` measures with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stream_server.evaluation.manifest import Example, read_audio
from stream_server.evaluation.scoring import Pair
from stream_server.evaluation.track import Track
from stream_server.recogniser.interface import (
    SAMPLE_RATE,
    Hypothesis,
    Recogniser,
    Utterance,
    run_to_end,
)

PADDING = SAMPLE_RATE // 5
"""Samples of silence before and after a clip, as the segmenter leaves them in service."""

Progress = Callable[[Iterable[Sequence[Example]]], Iterable[Sequence[Example]]]
"""Shows how far an iteration is."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one clip."""

    example: Example
    text: str
    steps: float
    """Denoising steps run, the mean of several segments; fewer than asked for where rows stop."""
    audio: float
    """Seconds, the padding included."""
    seconds: float
    """Of computing; of a batch, its share by audio."""
    track: Track | None = None
    """How the text came, where the clip was streamed."""

    @property
    def pair(self) -> Pair:
        """For scoring."""
        return Pair(self.example.text or "", self.text, self.example.language)


def decode(recogniser: Recogniser, utterances: Sequence[Utterance]) -> list[Hypothesis]:
    """Decode utterances together, to the end of each."""
    return run_to_end(recogniser, recogniser.start(utterances))


def hear(
    recogniser: Recogniser,
    examples: Sequence[Example],
    steps: int,
    batch: int = 1,
    progress: Progress = iter,
) -> list[Heard]:
    """Recognise every clip.

    Args:
        recogniser: warm.
        examples: the clips.
        steps: denoising steps at most.
        batch: clips decoded together, those of like length; 1 is what a single stream would see.
        progress: shows how far it is, batch by batch.

    Returns:
        What came, in the order of the examples.
    """
    order = sorted(examples, key=lambda example: example.duration) if batch > 1 else examples
    batches = [order[first : first + batch] for first in range(0, len(order), batch)]
    results: dict[Example, Heard] = {}
    for group in progress(batches):
        audio = [read_audio(example, PADDING, PADDING) for example in group]
        utterances = [
            Utterance(pcm, steps, example.language)
            for pcm, example in zip(audio, group, strict=True)
        ]
        began = time.perf_counter()
        hypotheses = decode(recogniser, utterances)
        pace = (time.perf_counter() - began) / sum(map(len, audio))
        for example, pcm, hypothesis in zip(group, audio, hypotheses, strict=True):
            seconds = len(pcm) / SAMPLE_RATE
            text = hypothesis.text.strip()
            results[example] = Heard(example, text, hypothesis.step, seconds, pace * len(pcm))
    return [results[example] for example in examples]


__all__ = ["PADDING", "Heard", "Progress", "decode", "hear"]
