"""What the rest of the server knows of a recogniser: plain types and one protocol.

Pure: no torch, no asyncio, no clock. The scheduler and the transcript use these types without
loading a model, and a recogniser knows neither of them, nor clients, nor segments.

The unit of work is one denoising step over a set of rows (a row is one utterance being decoded).
Rows differ in length, step count and temperature; they join and leave between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
"""Hertz of all audio behind the transports."""

Pcm = npt.NDArray[np.float32]
"""Mono samples at SAMPLE_RATE in [-1, 1], shape [samples]."""


@dataclass(frozen=True, slots=True)
class RecogniserInfo:
    """What a recogniser is and can take."""

    name: str
    languages: tuple[str, ...]
    """ISO 639-1 codes."""
    max_samples: int
    """Samples of the longest utterance."""
    max_rows: int
    """Rows in one step."""
    default_steps: int
    """Denoising steps of a final."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One piece of audio to be decoded."""

    pcm: Pcm
    steps: int
    """Denoising steps at most; a row may stop sooner."""
    language: str | None = None
    draft: tuple[int, ...] = ()
    """Tokens to start the canvas from (an earlier partial); empty starts from noise or CTC."""
    seed: int = 0
    """Of the noise, so that a decode can be repeated."""
    trace: bool = False
    """Whether hypotheses carry the canvas."""


@dataclass(frozen=True, slots=True)
class HypothesisWord:
    """A word with what is known of it. ``"".join(word.text for word in words)`` is the text."""

    text: str
    """With the spacing before it, as the model gives it."""
    confidence: float
    """0 to 1."""
    start: int | None = None
    """Samples from the start of the utterance; none where unknown."""
    end: int | None = None
    """Samples from the start of the utterance; none where unknown."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The state of a row after a step."""

    tokens: tuple[int, ...]
    """Up to the end of text, which is left out."""
    confidences: tuple[float, ...]
    """One for each token, 0 to 1."""
    words: tuple[HypothesisWord, ...]
    """Empty before the last step, unless the utterance is traced."""
    step: int
    """Steps run; 0 where the row is still listened to."""
    is_final: bool
    """Whether the row is finished; it must be released and not stepped again."""
    language: str | None = None
    canvas: str | None = None
    """The canvas as text after this step, where the utterance is traced."""
    is_guarded: bool = False
    """Whether words were left out because the audio does not support them."""
    rest: Callable[[], Hypothesis] | None = field(default=None, compare=False, repr=False)
    """Finds the words of a finished row, where :meth:`Launcher.launch` put that off. It may raise;
    the row need not be there any more."""

    def whole(self) -> Hypothesis:
        """Return this with its words."""
        return self if self.rest is None else self.rest()

    @property
    def text(self) -> str:
        """The words joined."""
        return "".join(word.text for word in self.words)


class Row(Protocol):
    """An utterance being decoded; opaque to everyone but its recogniser."""

    @property
    def utterance(self) -> Utterance:
        """What is being decoded."""


class Recogniser(Protocol):
    """Turns utterances into hypotheses, a denoising step at a time.

    All calls come from one thread, the engine's. Any call may raise; the rows it was given are
    then lost and must be released.
    """

    @property
    def info(self) -> RecogniserInfo:
        """What this recogniser is and can take."""

    def warm_up(self) -> None:
        """Run once over every shape that serving will use."""

    def start(self, utterances: Sequence[Utterance]) -> Sequence[Row]:
        """Encode audio and prepare canvases: one row for each utterance, in order."""

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        """Run one denoising step on each row: one hypothesis for each row, in order."""

    def release(self, rows: Sequence[Row]) -> None:
        """Forget rows, finished or not. Never raises."""


@runtime_checkable
class Launcher(Recogniser, Protocol):
    """A recogniser whose steps may run beside its caller, as on a GPU."""

    def launch(self, rows: Sequence[Row]) -> Callable[[], Sequence[Hypothesis]]:
        """Begin what ``step`` does; what is returned waits for it, and must be called.

        It says first of all which rows are finished: their words may be put off until the next
        step is launched, see :attr:`Hypothesis.rest`.
        """


def run_to_end(recogniser: Recogniser, rows: Sequence[Row]) -> list[Hypothesis]:
    """Step rows together until each is finished, and release them: for whoever has no scheduler.

    Returns:
        The last hypothesis of each row, in order.
    """
    last: dict[int, Hypothesis] = {}
    running = list(range(len(rows)))
    while running:
        found = recogniser.step([rows[index] for index in running])
        last.update(zip(running, found, strict=True))
        running = [index for index in running if not last[index].is_final]
    recogniser.release(rows)
    return [last[index] for index in range(len(rows))]


__all__ = [
    "SAMPLE_RATE",
    "Hypothesis",
    "HypothesisWord",
    "Launcher",
    "Pcm",
    "Recogniser",
    "RecogniserInfo",
    "Row",
    "Utterance",
    "run_to_end",
]
