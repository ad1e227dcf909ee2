"""What the published model takes on a machine, as measured there: what a rehearsal runs on.

A step is run in units (``recogniser.units``) of canvases and prompts, of which graphs have certain
numbers. What it takes is no straight line of them: the more there are, the more experts' weights it
reads, until it reads all; then products decide. So it is a curve through what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream_server.evaluation.random_server import END_EVERY
from stream_server.recogniser.units import PROMPT_UNITS, UNITS, bucket

_UNIT = 32
"""Places or positions, in a unit."""
_TOKEN_SECONDS = 0.16
"""Of audio, in an audio token."""
_WINDOW = 30.0
"""Seconds of audio that a prompt has at most."""


@dataclass(frozen=True, slots=True)
class MachineCosts:
    """Milliseconds of the parts, and how long canvases and prompts are."""

    name: str
    steps: tuple[tuple[float, float], ...]
    """What a step takes by its units, ascending; between two, the straight line through both."""
    prompt: float
    """Units of canvas that one of a prompt weighs, which has no share of the vocabulary."""
    listen: tuple[float, float]
    """To listen: of each start, and more for each row."""
    turn: tuple[float, float]
    """Of the host, in which the device waits: of each turn, and more for each row in it; see
    ``launched_first``."""
    begin: float
    """Of the host, more for a turn that begins to listen."""
    words: float
    """Of the host, more for each row that ends: its text is aligned."""
    launched_first: tuple[float, float] | None = (0.6, 0.2)
    """What is left of ``turn`` where a step is launched before the texts of the one before are
    aligned and before listening begins, and its inputs are there already: a guess. None does all of
    it before the launch, as what was measured up to 2026-11-28."""
    hidden: float = 0.6
    """Of listening, what vanishes behind a step that runs beside it; a guess."""
    canvases: tuple[int, ...] = (32, 64)
    """Places that a canvas may have; those of ``random_server``."""
    places_per_second: float = 7.8
    """Of a canvas; the same."""
    endless: float = 1 - 1 / END_EVERY
    """The chance that a place ends no text; the same. Who finds no end gets a larger canvas, and
    half the steps again."""
    silence: float = 1.0
    """Seconds of silence that a prompt keeps; the same."""
    text: int = 21
    """Positions of a prompt without its audio."""
    max_rows: int = 32

    def start(self, rows: int) -> float:
        """Return what it takes to listen to new rows."""
        return self.listen[0] + self.listen[1] * rows if rows else 0.0

    def step(self, canvases: Sequence[int], new: Sequence[float]) -> float:
        """Return what a step takes.

        Args:
            canvases: places of each row's.
            new: seconds of audio of those whose prompt is run in it.
        """
        units = bucket(sum(-(-places // _UNIT) for places in canvases), UNITS)
        prompts, alone = sum(map(self._prompt, new)), 0
        while prompts > PROMPT_UNITS[-1]:
            prompts -= PROMPT_UNITS[-1]
            alone += 1
        total = self.pass_of(units, bucket(prompts, PROMPT_UNITS))
        return total + alone * self.pass_of(0, PROMPT_UNITS[-1])

    def pass_of(self, canvases: int, prompts: int) -> float:
        """Return what one pass through the weights takes, with so many units in it."""
        units, took = zip(*self.steps, strict=True)
        return float(np.interp(canvases + self.prompt * prompts, units, took))

    def beside(self, step: float, listening: float, delay: float = 0.0) -> float:
        """Return what a step and listening take that run at a time.

        Args:
            step: alone.
            listening: alone.
            delay: between the launch of the step and the beginning of listening.
        """
        behind = self.hidden * listening
        return max(step, delay + behind) + listening - behind

    def between(self, rows: int) -> float:
        """Return what the host takes between two steps, in the second of which ``rows`` are."""
        always, each = self.turn if self.launched_first is None else self.launched_first
        return always + each * rows

    def canvas(self, seconds: float) -> int:
        """Return the places of the canvas of so much audio."""
        need = self.places_per_second * seconds
        fits = (each for each in self.canvases if each >= need)
        return next(fits, self.canvases[-1])

    def larger(self, canvas: int) -> int | None:
        """Return the places of the next larger canvas; none where there is none."""
        return next((each for each in self.canvases if each > canvas), None)

    def _prompt(self, seconds: float) -> int:
        """Return the units of the prompt of so much audio."""
        audio = math.ceil(min(_WINDOW, seconds + self.silence) / _TOKEN_SECONDS)
        return -(-(self.text + audio) // _UNIT)


# Steps in bf16: results/2026-11-28-h200-decode.json and -decode-between.json; of two units the mean
# of 1 x 64 and 2 x 32. In float8 1 x 64, 32 x 64 and 32 x 192 of 2026-11-27-h200-float8-top32.json,
# and between them a guess: 0.75 of bf16 up to 8 units, as at 2, then less, to 0.65 at 64. A
# prompt's unit: the prefills of the same files. Listening: a start of 1, 8 and 32 rows on an H100
# took 4.2, 14.2 and 52.8. The host: a profile of its thread on the H200, per turn, start and end of
# a row; what is more for each row of a turn was chosen so that rehearsals agree with streams.
MACHINES = (
    MachineCosts(
        "h200",
        (
            *((1, 8.9), (2, 10.9), (4, 13.2), (8, 16.9)),
            *((16, 19.0), (32, 28.0), (64, 49.6), (192, 132.1)),
        ),
        0.7,
        (2.6, 1.57),
        (1.4, 0.3),
        2.3,
        2.1,
    ),
    MachineCosts(
        "h200-float8",
        (
            *((1, 6.7), (2, 7.9), (4, 9.9), (8, 12.7)),
            *((16, 13.7), (32, 19.3), (64, 32.2), (192, 87.4)),
        ),
        0.7,
        (2.6, 1.57),
        (1.4, 0.3),
        2.3,
        2.1,
    ),
)
"""Those that were measured, in bf16 and with float8 and the top 32."""


__all__ = ["MACHINES", "MachineCosts"]
