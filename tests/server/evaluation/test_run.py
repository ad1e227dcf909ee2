"""A run measures every set for every number of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from stream_server.errors import ConfigError
from stream_server.evaluation.accuracy import Heard
from stream_server.evaluation.manifest import Selection
from stream_server.evaluation.report import Result
from stream_server.evaluation.run import Plan, measure, parse_steps, read_sets
from stream_server.evaluation.subject import Subject
from stream_server.recogniser.fake import FakeRecogniser

SUBJECT = Subject(FakeRecogniser(), start="noise", scheme="uniform")


def run(plan: Plan, subject: Subject = SUBJECT) -> tuple[list[Result], list[Heard], list[int]]:
    told: list[Heard] = []
    counts: list[int] = []

    def show(what: str, total: int) -> Callable[[Iterable[Any]], Iterable[Any]]:
        counts.append(total)
        return list

    return measure(plan, subject, show, told.append), told, counts


@pytest.fixture
def manifests(write_manifest: Callable[..., Path]) -> tuple[Path, ...]:
    one = [("a.wav", "x", "s", 0.8), ("b.wav", "y", "s", 0.7), ("c.wav", "z", "s", 0.6)]
    return write_manifest(one, "one"), write_manifest([("a.wav", "x", "s", 0.5)], "two")


def test_every_set_and_number_of_steps(manifests: tuple[Path, ...]) -> None:
    results, told, counts = run(Plan(manifests, Selection(), steps=(2, 4), batch=2))
    assert [(each.steps, each.set) for each in results] == [
        (steps, name) for steps in (2, 4) for name in ("one", "two", "all")
    ]
    assert {each.start for each in results} == {"noise"}
    assert len(told) == 2 * 4
    assert counts == [2, 1, 2, 1]


def test_a_model_without_steps_is_measured_once(manifests: tuple[Path, ...]) -> None:
    subject = Subject(FakeRecogniser(), has_steps=False)
    results, _, _ = run(Plan(manifests[:1], Selection(), steps=(2, 4)), subject)
    assert [each.steps for each in results] == [None]


@pytest.mark.parametrize("pace", ["virtual", "realtime"])
def test_streams_have_delays(manifests: tuple[Path, ...], pace: str) -> None:
    selection = Selection(limit=1)
    results, told, _ = run(Plan(manifests[:1], selection, steps=(4,), pace=pace))
    assert results[0].final_ms is not None
    assert told[0].text


def test_silence_is_a_set_of_its_own() -> None:
    results, _, _ = run(Plan((), Selection(), pace="virtual", silence=3.0))
    assert [(each.set, each.words_heard, each.wer) for each in results] == [("silence", 0, None)]
    assert results[0].audio_seconds == 3


def test_clips_that_the_model_cannot_take_are_left_out(
    write_manifest: Callable[..., Path],
) -> None:
    manifest = write_manifest([("a.wav", "x", "s", 40.0), ("b.wav", "x", "s", 1.0)])
    (name, examples) = read_sets(Plan((manifest,), Selection()), SUBJECT)[0]
    assert (name, len(examples)) == ("toy", 1)
    assert len(read_sets(Plan((manifest,), Selection(), pace="virtual"), SUBJECT)[0][1]) == 2


def test_plans_that_make_no_sense_are_refused(manifests: tuple[Path, ...]) -> None:
    with pytest.raises(ConfigError, match="1 to 32"):
        run(Plan(manifests, Selection(), batch=33))
    with pytest.raises(ConfigError, match="streamed"):
        run(Plan(manifests, Selection(), batch=2, pace="virtual"))
    with pytest.raises(ConfigError, match="at least one"):
        run(Plan((), Selection()))


@pytest.mark.parametrize("text", ["", "0", "65", "two", "1,,2"])
def test_wrong_steps_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="steps"):
        parse_steps(text)


def test_steps_are_a_list() -> None:
    assert parse_steps("1,2, 48") == (1, 2, 48)
