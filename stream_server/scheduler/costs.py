"""What a turn of the engine takes, learnt from what it took.

A turn starts new rows and runs one denoising step. On a GPU a step costs nearly the same whatever
the rows; on a CPU each row costs its own, and starting one (encoding its audio) more than its
steps. Who may share a step, and how many sessions fit, follows from these three numbers, so they
are measured where the server runs: before it takes work, then from every turn, since other
programs on the machine change them. Where nobody more fits and there are no turns to learn from,
the engine measures again.

Pure but for :func:`measuring`, which is given its clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import cast

import numpy as np

from stream_server.recogniser.interface import SAMPLE_RATE, Recogniser, Utterance

_WINDOW = 256
"""Turns that are remembered."""
_REFIT = 16
"""Turns between two fits."""
_TURNS = 4
"""To the second step of a row, and one to spare."""
_TRIES = 3
"""Of each measurement; the quickest counts, since what disturbs only adds."""
_SHORT, _LONG = 1, 4
"""Seconds of audio that are measured."""


@dataclass(frozen=True, slots=True)
class TurnCosts:
    """Seconds that a turn takes, by what is in it."""

    turn: float = 0.0
    """Whatever is in it."""
    row: float = 0.0
    """More for each row of its step."""
    audio: float = 0.0
    """More for each second of audio of the rows that it starts."""

    def predict(self, rows: int, audio: float) -> float:
        """Return the seconds of a turn with ``rows`` that starts ``audio`` seconds."""
        return self.turn + self.row * rows + self.audio * audio if rows else 0.0

    def work(self, row_steps: int, audio: float, max_rows: int) -> float:
        """Return what some rows' steps and starts take of the engine if its turns are full."""
        return row_steps * (self.row + self.turn / max_rows) + self.audio * audio


class CostMeter:
    """Keeps :class:`TurnCosts` current; they are all 0 until something is known."""

    def __init__(self) -> None:
        self._prior = self.costs = TurnCosts()
        self._turns: deque[tuple[float, float, float, float]] = deque(maxlen=_WINDOW)
        self._unfitted = 0

    def restart(self, costs: TurnCosts) -> None:
        """Begin from ``costs``, as measured; what little evidence there is falls back to them."""
        self._prior = self.costs = costs
        self._turns.clear()
        self._unfitted = 0

    def observe(self, rows: int, audio: float, seconds: float) -> None:
        """Take note that a turn with ``rows`` that started ``audio`` seconds took ``seconds``."""
        self._turns.append((1.0, rows, audio, seconds))
        self._unfitted += 1
        if self._unfitted >= _REFIT:
            self._unfitted = 0
            self._fit()

    def _fit(self) -> None:
        """Fit by least squares; each number is held near the prior by two turns' worth."""
        turns = np.array(self._turns)
        inputs, seconds = turns[:, :3], turns[:, 3]
        prior = np.array((self._prior.turn, self._prior.row, self._prior.audio))
        # Of three unknowns: the normal equations are quick, and start no threads.
        weight = np.diag(2 * np.mean(inputs**2, axis=0) + 1e-6)
        found = np.linalg.solve(inputs.T @ inputs + weight, inputs.T @ seconds + weight @ prior)
        self.costs = TurnCosts(*(max(0.0, float(value)) for value in found))


def measure(recogniser: Recogniser, clock: Callable[[], float]) -> TurnCosts:
    """Measure a warm recogniser on noise; call on the thread that owns it.

    Args:
        recogniser: without rows.
        clock: seconds.
    """
    tries = measuring(recogniser, clock)
    while True:
        try:
            next(tries)
        except StopIteration as done:
            return cast(TurnCosts, done.value)


def measuring(
    recogniser: Recogniser, clock: Callable[[], float]
) -> Generator[None, None, TurnCosts]:
    """Do as :func:`measure`, a try at a time: what comes between two need not wait for all."""
    steps = recogniser.info.default_steps
    many = min(4, recogniser.info.max_rows)
    noise = np.random.default_rng(0).normal(0, 0.05, _LONG * SAMPLE_RATE).astype(np.float32)

    def time(count: int, seconds: int) -> tuple[float, float]:
        """Return the seconds of a start and of a step.

        A recogniser may put off a start's work: to a turn that only waits for it, or into the first
        step. So the step that counts is the second, where there is one, and the rest is the start.
        """
        pcm = noise[: seconds * SAMPLE_RATE]
        began = clock()
        rows = recogniser.start([Utterance(pcm, steps=steps, seed=seed) for seed in range(count)])
        try:
            for _ in range(_TURNS):
                stepping = clock()
                hypotheses = recogniser.step(rows)
                step = clock() - stepping
                done = min(each.step for each in hypotheses)
                if done > 1 or any(each.is_final for each in hypotheses):
                    break
            whole = clock() - began
        finally:
            recogniser.release(rows)
        return max(0.0, whole - max(1, done) * step), step

    def quickest(count: int, seconds: int) -> Generator[None, None, tuple[float, float]]:
        starts, stepped = [], []
        for _ in range(_TRIES):
            started, step = time(count, seconds)
            starts.append(started)
            stepped.append(step)
            yield
        return min(starts), min(stepped)

    short, step = yield from quickest(1, _SHORT)
    long, _ = yield from quickest(1, _LONG)
    row = 0.0
    if many > 1:
        _, together = yield from quickest(many, _SHORT)
        row = max(0.0, (together - step) / (many - 1))
    audio = max(0.0, (long - short) / (_LONG - _SHORT))
    return TurnCosts(max(0.0, step - row), row, audio)


__all__ = ["CostMeter", "TurnCosts", "measure", "measuring"]
