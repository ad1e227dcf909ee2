"""The rows in flight: every call of the recogniser, and what happens when one raises.

Runs on the engine's thread only. Knows rows by number; knows nothing of queues, clients or time.

One bad utterance must not take its neighbours along. A batch that fails is lost as a whole (that
is the recogniser's contract), so each of its rows is started again and from then on stepped alone
until it ends: only the bad one fails a second time, whichever step it is that it cannot stand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from stream_server.recogniser.interface import Hypothesis, Launcher, Recogniser, Row, Utterance

_log = logging.getLogger(__name__)

_Wait = Callable[[], Sequence[Hypothesis]]


@dataclass(slots=True)
class _Live:
    row: Row
    is_suspect: bool = False
    """Whether its batch failed: it is stepped alone."""
    steps: int = 0

    @property
    def most_steps(self) -> int:
        """A row that goes on beyond this will not end; the contract allows ``steps``."""
        return 4 * self.row.utterance.steps + 16


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one denoising step gave, by number."""

    hypotheses: dict[int, Hypothesis] = field(default_factory=dict)
    failures: dict[int, BaseException] = field(default_factory=dict)
    """Rows that are lost, with what was raised."""


class Rows:
    """The rows of one recogniser."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self._launcher = recogniser if isinstance(recogniser, Launcher) else None
        self._live: dict[int, _Live] = {}

    def __len__(self) -> int:
        return len(self._live)

    def start(self, utterances: Mapping[int, Utterance]) -> dict[int, BaseException]:
        """Make a row of each utterance; return those that could not be started."""
        failure = self._try_start(utterances)
        if failure is None:
            return {}
        if len(utterances) == 1:
            return dict.fromkeys(utterances, failure)
        failures = {}
        for number, utterance in utterances.items():
            failure = self._try_start({number: utterance})
            if failure is not None:
                failures[number] = failure
        return failures

    def step(self, numbers: Iterable[int]) -> StepResult:
        """Do as :meth:`launch`, and wait."""
        return self.launch(numbers)()

    def launch(self, numbers: Iterable[int]) -> Callable[[], StepResult]:
        """Begin one denoising step on rows, where the recogniser can.

        Args:
            numbers: of the rows; those without a row are passed over.

        Returns:
            What ends the step; finished and lost rows are released then. No other call of these
            rows may come before it.
        """
        live = [number for number in numbers if number in self._live]
        batch = [number for number in live if not self._live[number].is_suspect]
        return partial(self._end, live, batch, self._begin(batch))

    def _begin(self, batch: Sequence[int]) -> _Wait:
        rows = [self._live[number].row for number in batch]
        if self._launcher is None or not rows:
            return partial(self._recogniser.step, rows)
        try:
            return self._launcher.launch(rows)
        except BaseException as error:
            return partial(_fail, error)

    def _end(self, live: Sequence[int], batch: Sequence[int], wait: _Wait) -> StepResult:
        result = StepResult()
        failure = self._try_step(batch, wait, result)
        if failure is not None:
            self._isolate(batch, failure, result)
        suspects = [
            number for number in live if number in self._live and self._live[number].is_suspect
        ]
        for number in suspects:
            failure = self._try_step([number], self._begin([number]), result)
            if failure is not None:
                self.release([number])
                result.failures[number] = failure
        self.release(
            [number for number, hypothesis in result.hypotheses.items() if hypothesis.is_final]
        )
        return result

    def release(self, numbers: Iterable[int]) -> None:
        """Forget rows; numbers without a row are passed over."""
        rows = [self._live.pop(number).row for number in numbers if number in self._live]
        if not rows:
            return
        try:
            self._recogniser.release(rows)
        except BaseException:  # It never should; if it does, the other rows go on.
            _log.exception("the recogniser failed to release %d rows", len(rows))

    def release_all(self) -> None:
        """Forget every row."""
        self.release(list(self._live))

    def _isolate(self, batch: Sequence[int], failure: BaseException, result: StepResult) -> None:
        """A batch failed: start each of its rows again, alone."""
        utterances = {number: self._live[number].row.utterance for number in batch}
        self.release(batch)
        if len(batch) == 1:
            result.failures[batch[0]] = failure
            return
        _log.warning("a step of %d rows failed; each is tried alone", len(batch), exc_info=failure)
        for number, utterance in utterances.items():
            again = self._try_start({number: utterance})
            if again is None:
                self._live[number].is_suspect = True
            else:
                result.failures[number] = again

    # A recogniser may raise anything: CUDA errors are RuntimeErrors, but libraries under it have
    # called sys.exit(). None of it may end the engine's thread, hence BaseException.

    def _try_start(self, utterances: Mapping[int, Utterance]) -> BaseException | None:
        if not utterances:
            return None
        try:
            rows = self._recogniser.start(list(utterances.values()))
            _check_count(len(rows), len(utterances))
        except BaseException as error:
            return error
        for number, row in zip(utterances, rows, strict=True):
            self._live[number] = _Live(row)
        return None

    def _try_step(
        self, numbers: Sequence[int], wait: _Wait, result: StepResult
    ) -> BaseException | None:
        if not numbers:
            return None
        try:
            hypotheses = wait()
            _check_count(len(hypotheses), len(numbers))
        except BaseException as error:
            return error
        for number, hypothesis in zip(numbers, hypotheses, strict=True):
            live = self._live[number]
            live.steps += 1
            if not hypothesis.is_final and live.steps >= live.most_steps:
                result.failures[number] = RuntimeError(f"not done after {live.steps} steps")
                self.release([number])
            else:
                result.hypotheses[number] = hypothesis
        return None


def _fail(error: BaseException) -> Sequence[Hypothesis]:
    raise error


def _check_count(got: int, wanted: int) -> None:
    if got != wanted:
        raise RuntimeError(f"the recogniser returned {got} results for {wanted} rows")


__all__ = ["Rows", "StepResult"]
