"""What the published model takes on a machine, as measured there: what a rehearsal runs on.

A step takes a fixed time, in which the weights are read, and more for each token: of a canvas,
with its share of the vocabulary, or of a prompt. It is run in units (``recogniser.units``), of
which graphs have certain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stream_server.recogniser.units import PROMPT_UNITS, UNITS, bucket

_UNIT = 32
"""Places or positions."""
_TOKEN_SECONDS = 0.16
"""Of audio, in an audio token."""
_WINDOW = 30.0
"""Seconds of audio that a prompt has at most."""


@dataclass(frozen=True, slots=True)
class MachineCosts:
    """Milliseconds of the parts, and how long canvases and prompts are."""

    name: str
    fixed: float
    """Of a step, whatever is in it."""
    place: float
    """More for each place of a canvas."""
    position: float
    """More for each position of a prompt."""
    listen: tuple[float, float]
    """To listen: of each start, and more for each row."""
    turn: tuple[float, float]
    """Of the host: of each turn, and more for each row in it."""
    hidden: float = 0.6
    """Of listening, what vanishes behind a step that runs beside it; a guess."""
    canvases: tuple[int, ...] = (32, 64)
    """Places that a canvas may have; those of ``random_server``."""
    places_per_second: float = 7.8
    """Of a canvas; the same."""
    silence: float = 1.0
    """Seconds of silence that a prompt keeps; the same."""
    text: int = 21
    """Positions of a prompt without its audio."""
    max_rows: int = 32

    def start(self, rows: int) -> float:
        """Return what it takes to listen to new rows."""
        return self.listen[0] + self.listen[1] * rows if rows else 0.0

    def step(self, seconds: Sequence[float], new: Sequence[float]) -> float:
        """Return what a step takes.

        Args:
            seconds: of audio of each row.
            new: of those of them whose prompt is run in it.
        """
        canvases = bucket(sum(map(self._canvas, seconds)), UNITS)
        prompts, alone = sum(map(self._prompt, new)), 0
        while prompts > PROMPT_UNITS[-1]:
            prompts -= PROMPT_UNITS[-1]
            alone += 1
        total = self.fixed + _UNIT * self.place * canvases
        total += _UNIT * self.position * bucket(prompts, PROMPT_UNITS)
        return total + alone * (self.fixed + _UNIT * self.position * PROMPT_UNITS[-1])

    def beside(self, step: float, listening: float) -> float:
        """Return what a step and listening take that run at a time."""
        behind = self.hidden * listening
        return max(step, behind) + listening - behind

    def host(self, rows: int) -> float:
        """Return what a turn takes beside the device."""
        return self.turn[0] + self.turn[1] * rows

    def _canvas(self, seconds: float) -> int:
        """Return the units of the canvas of so much audio."""
        need = self.places_per_second * seconds
        fits = (each for each in self.canvases if each >= need)
        return -(-next(fits, self.canvases[-1]) // _UNIT)

    def _prompt(self, seconds: float) -> int:
        """Return the units of the prompt of so much audio."""
        audio = math.ceil(min(_WINDOW, seconds + self.silence) / _TOKEN_SECONDS)
        return -(-(self.text + audio) // _UNIT)


# Steps: 1 x 64 and 32 x 64 of results/2026-11-27-h200-decode.json and -float8-top32.json, by the
# straight line through both. Positions: prefill of 1 and 32 prompts of 210 in the same. Listening
# is a guess, an encoder at half its arithmetic's rate and 25 launches: ``start_cost.py`` measures.
MACHINES = (
    MachineCosts("h200", 8.84, 0.0197, 0.0142, (2.5, 1.2), (1.0, 0.1)),
    MachineCosts("h200-float8", 7.1, 0.0121, 0.0095, (2.5, 1.2), (1.0, 0.1)),
)
"""Those that were measured, in bf16 and with float8 and the top 32."""


__all__ = ["MACHINES", "MachineCosts"]
