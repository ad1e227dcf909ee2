"""The short form of the million: some thousands, every API, and what would be found."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest
import structlog

from tests.long.frames import APIS, frame, query, request
from tests.long.hostile import run


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Logs errors only: structlog's own way draws every debug line with its traceback."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


@pytest.mark.timeout(300)
def test_some_thousands_crash_hang_and_disturb_nothing() -> None:
    rig = run(6_000, shrinks=False)
    assert rig.count >= 6_000
    assert {name for name, _ in rig.answers} == {*(api.name for api in APIS), "http"}
    assert rig.transcript
    answers = {answer for _, answer in rig.answers}
    assert {"1000", "left"} <= answers
    # Which of these come is chance.
    assert {"1002", "1003", "1007", "1008"} & answers, "what is no frame of an API is refused"
    assert [each for each in answers if each.startswith("HTTP 4")]


def test_frames_follow_from_their_seed_and_are_of_every_kind() -> None:
    def some(seed: int) -> list[object]:
        chance = random.Random(seed)
        made: list[object] = [frame(api, chance, 0.5) for api in APIS for _ in range(200)]
        return [*made, *(query(api, chance) for api in APIS), *(request(chance) for _ in range(50))]

    assert some(1) == some(1)
    assert some(1) != some(2)
    kinds = {type(each).__name__ for each in some(1)}
    assert kinds == {"str", "bytes", "Request"}


def test_a_server_that_breaks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from stream_server.transports.vosk import Dialogue

    def hear(self: Dialogue, frame: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Dialogue, "hear", hear)
    with pytest.raises((AssertionError, ExceptionGroup)):
        run(20_000, shrinks=False)
