"""One bad utterance takes none of its neighbours along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from stream_server.recogniser.fake import FAKE_INFO, FakeRecogniser
from stream_server.recogniser.interface import Hypothesis, Recogniser, Row, Utterance
from stream_server.scheduler.rows import Rows, StepResult

BAD = 666
EVERY = range(100)
"""Numbers of all rows."""


def utterance(seed: int = 0, steps: int = 3) -> Utterance:
    return Utterance(np.full(4800, 0.1, np.float32), steps=steps, seed=seed)


@dataclass
class Fragile:
    """A fake that raises where an utterance has the seed BAD."""

    at_step: int = 1
    """0 raises in start."""
    error: BaseException = field(default_factory=lambda: RuntimeError("CUDA error"))
    inner: FakeRecogniser = field(default_factory=FakeRecogniser)
    batches: list[int] = field(default_factory=list)
    steps: dict[int, int] = field(default_factory=dict)
    info = FAKE_INFO

    def warm_up(self) -> None: ...

    def start(self, utterances: Sequence[Utterance]) -> Sequence[Row]:
        if self.at_step == 0 and any(each.seed == BAD for each in utterances):
            raise self.error
        return self.inner.start(utterances)

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        self.batches.append(len(rows))
        for row in rows:
            self.steps[id(row)] = self.steps.get(id(row), 0) + 1
            if row.utterance.seed == BAD and self.steps[id(row)] == self.at_step:
                raise self.error
        return self.inner.step(rows)

    def release(self, rows: Sequence[Row]) -> None:
        self.inner.release(rows)


def run(rows: Rows, utterances: dict[int, Utterance]) -> StepResult:
    """Run to the end; finals and failures only."""
    total = StepResult(failures=rows.start(utterances))
    for _ in range(20):
        result = rows.step(EVERY)
        finals = {n: each for n, each in result.hypotheses.items() if each.is_final}
        total.hypotheses.update(finals)
        total.failures.update(result.failures)
    assert len(rows) == 0
    return total


@pytest.mark.parametrize("at_step", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error"), SystemExit(1), KeyboardInterrupt(), MemoryError()]
)
def test_only_the_bad_one_fails(at_step: int, error: BaseException) -> None:
    fragile = Fragile(at_step, error)
    utterances = {10: utterance(1), 11: utterance(BAD), 12: utterance(2)}
    result = run(Rows(fragile), utterances)
    assert result.failures == {11: error}
    assert result.hypotheses.keys() == {10, 12}
    expected = run(Rows(FakeRecogniser()), {1: utterance(1)}).hypotheses[1]
    assert result.hypotheses[10].text == expected.text
    assert fragile.inner.live_rows == 0


def test_after_a_failure_the_suspects_run_alone_and_newcomers_together() -> None:
    fragile = Fragile(at_step=1)
    rows = Rows(fragile)
    rows.start({0: utterance(1), 1: utterance(BAD)})
    rows.step(EVERY)
    assert fragile.batches == [2, 1, 1]
    rows.start({2: utterance(2), 3: utterance(3)})
    fragile.batches.clear()
    rows.step(EVERY)
    assert fragile.batches == [2, 1]


def test_a_single_row_is_not_tried_twice() -> None:
    fragile = Fragile(at_step=1)
    result = run(Rows(fragile), {5: utterance(BAD)})
    assert result.failures == {5: fragile.error}
    assert fragile.batches == [1]


def test_a_passing_failure_costs_nobody_anything() -> None:
    class Once(Fragile):
        def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
            self.batches.append(len(rows))
            if len(self.batches) == 1:
                raise MemoryError
            return self.inner.step(rows)

    result = run(Rows(Once()), {0: utterance(1), 1: utterance(2)})
    assert not result.failures
    assert result.hypotheses.keys() == {0, 1}


def test_a_wrong_count_of_results_is_a_failure() -> None:
    class Short(FakeRecogniser):
        def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
            return super().step(rows)[1:]

    recogniser = Short()
    result = run(Rows(recogniser), {0: utterance(1), 1: utterance(2)})
    assert result.failures.keys() == {0, 1}
    assert "0 results for 1 rows" in str(result.failures[0])
    assert recogniser.live_rows == 0


def test_a_row_that_never_ends_is_given_up() -> None:
    class Endless(FakeRecogniser):
        def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
            return [Hypothesis((), (), (), step=1, is_final=False) for _ in rows]

    rows = Rows(Endless())
    rows.start({0: utterance(steps=1)})
    results = [rows.step(EVERY) for _ in range(30)]
    assert sum(0 in result.failures for result in results) == 1
    assert len(rows) == 0


def test_release_passes_over_the_unknown_and_survives_a_bad_recogniser(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Clingy(FakeRecogniser):
        def release(self, rows: Sequence[Row]) -> None:
            raise RuntimeError("no")

    recogniser: Recogniser = Clingy()
    rows = Rows(recogniser)
    rows.start({0: utterance()})
    rows.release([0, 1])
    rows.release_all()
    assert len(rows) == 0
    assert "failed to release 1 rows" in caplog.text


def test_an_empty_step_calls_nobody() -> None:
    fragile = Fragile()
    assert Rows(fragile).step(EVERY) == StepResult()
    assert Rows(fragile).start({}) == {}
    assert fragile.batches == []


def test_rows_that_are_not_named_are_paused() -> None:
    recogniser = FakeRecogniser()
    rows = Rows(recogniser)
    rows.start({1: utterance(), 2: utterance(seed=1)})
    for _ in range(3):
        result = rows.step([2, 9])
    assert list(result.hypotheses) == [2]
    assert result.hypotheses[2].is_final
    assert len(rows) == 1
    assert [rows.step([1]).hypotheses[1].step for _ in range(3)] == [1, 2, 3]


class Launching(Fragile):
    """Whose steps are launched; a bad one fails when it is, or when it is waited for."""

    def __init__(self, fails_at_once: bool) -> None:
        super().__init__()
        self.fails_at_once = fails_at_once

    def launch(self, rows: Sequence[Row]) -> Callable[[], Sequence[Hypothesis]]:
        if self.fails_at_once:
            found = self.step(rows)
            return lambda: found
        return lambda: self.step(rows)


@pytest.mark.parametrize("fails_at_once", [False, True])
def test_only_the_bad_one_of_a_launched_step_fails(fails_at_once: bool) -> None:
    recogniser = Launching(fails_at_once)
    utterances = {10: utterance(1), 11: utterance(BAD), 12: utterance(2)}
    result = run(Rows(recogniser), utterances)
    assert result.failures == {11: recogniser.error}
    assert result.hypotheses.keys() == {10, 12}
    assert recogniser.inner.live_rows == 0


def test_a_step_is_launched_before_it_is_waited_for() -> None:
    recogniser = Launching(True)
    rows = Rows(recogniser)
    rows.start({0: utterance(1), 1: utterance(2)})
    end = rows.launch([0, 1])
    assert recogniser.batches == [2]
    assert [each.step for each in end().hypotheses.values()] == [1, 1]
    slow = Rows(Fragile())
    slow.start({0: utterance(1)})
    end = slow.launch([0])
    assert slow._recogniser.batches == []  # type: ignore[attr-defined]
    assert end().hypotheses[0].step == 1
