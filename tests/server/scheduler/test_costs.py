"""What turns take is found out, and followed when it changes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from stream_server.recogniser.fake import FakeRecogniser, FakeRow
from stream_server.recogniser.interface import SAMPLE_RATE, Hypothesis, Row, Utterance
from stream_server.scheduler.costs import CostMeter, TurnCosts, measure

TRUE = TurnCosts(turn=0.02, row=0.005, audio=0.04)


class Timed(FakeRecogniser):
    """A fake with a clock of its own, on which it takes its time."""

    now = 0.0

    def clock(self) -> float:
        return Timed.now

    def start(self, utterances: Sequence[Utterance]) -> Sequence[FakeRow]:
        Timed.now += TRUE.audio * sum(len(each.pcm) for each in utterances) / SAMPLE_RATE
        return FakeRecogniser.start(self, utterances)

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        Timed.now += TRUE.predict(len(rows), 0.0)
        return FakeRecogniser.step(self, rows)


def is_near(found: TurnCosts, wanted: TurnCosts, share: float) -> bool:
    pairs = ((found.turn, wanted.turn), (found.row, wanted.row), (found.audio, wanted.audio))
    return all(one == pytest.approx(other, rel=share) for one, other in pairs)


def learn(meter: CostMeter, costs: TurnCosts, turns: int, noise: float = 0.0) -> None:
    chance = random.Random(0)
    for _ in range(turns):
        rows, audio = chance.randint(1, 8), chance.choice((0.0, 0.0, 1.0, 4.0))
        seconds = costs.predict(rows, audio) * (1 + noise * chance.uniform(-1, 1))
        meter.observe(rows, audio, seconds)


def test_a_turn_is_the_sum_of_its_parts() -> None:
    assert TRUE.predict(2, 3.0) == pytest.approx(0.02 + 0.01 + 0.12)
    assert TRUE.predict(0, 3.0) == 0
    assert TRUE.work(4, 2.0, max_rows=10) == pytest.approx(4 * (0.005 + 0.002) + 0.08)


def test_measuring_finds_what_is_so_and_leaves_nothing_behind() -> None:
    recogniser = Timed()
    assert is_near(measure(recogniser, recogniser.clock), TRUE, 1e-6)
    assert recogniser.live_rows == 0


class Late(Timed):
    """It listens to new rows in their first turn, beside the steps of others, as a GPU does."""

    def start(self, utterances: Sequence[Utterance]) -> Sequence[FakeRow]:
        self.put_off = TRUE.audio * sum(len(each.pcm) for each in utterances) / SAMPLE_RATE
        return FakeRecogniser.start(self, utterances)

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        if self.put_off:
            Timed.now += self.put_off
            self.put_off = 0.0
            return [Hypothesis((), (), (), step=0, is_final=False) for _ in rows]
        return Timed.step(self, rows)


def test_what_a_start_puts_off_is_not_taken_for_a_step() -> None:
    recogniser = Late()
    assert is_near(measure(recogniser, recogniser.clock), TRUE, 1e-6)


def test_what_is_measured_holds_until_there_is_more() -> None:
    meter = CostMeter()
    assert meter.costs == TurnCosts()
    meter.restart(TRUE)
    assert meter.costs == TRUE
    learn(meter, TRUE, 200, noise=0.3)
    assert is_near(meter.costs, TRUE, 0.2)


def test_a_machine_that_gets_slower_is_noticed() -> None:
    meter = CostMeter()
    meter.restart(TRUE)
    learn(meter, TurnCosts(0.06, 0.015, 0.12), 400)
    assert is_near(meter.costs, TurnCosts(0.06, 0.015, 0.12), 0.1)


def test_turns_that_are_all_alike_do_not_mislead() -> None:
    meter = CostMeter()
    meter.restart(TRUE)
    for _ in range(300):
        meter.observe(1, 0.0, TRUE.predict(1, 0.0))
    assert is_near(meter.costs, TRUE, 0.01)


def test_no_number_gets_negative() -> None:
    meter = CostMeter()
    meter.restart(TRUE)
    for rows in range(1, 65):
        meter.observe(rows, 1.0, 1.0 / rows)
    assert min(meter.costs.turn, meter.costs.row, meter.costs.audio) == 0
