"""The types that pass between the recogniser and the rest: light, fixed, and met by every model."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from stream_server.recogniser import interface
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import (
    SAMPLE_RATE,
    Hypothesis,
    HypothesisWord,
    Recogniser,
    RecogniserInfo,
    Row,
    Utterance,
    run_to_end,
)

WORDS = (HypothesisWord("Hello,", 0.9, 0, 4_000), HypothesisWord(" you", 0.5))


def test_a_hypothesis_reads_as_its_words_do() -> None:
    hypothesis = Hypothesis((5, 6), (0.9, 0.5), WORDS, step=1, is_final=True)
    assert hypothesis.text == "Hello, you"
    assert Hypothesis((), (), (), step=1, is_final=False).text == ""


@pytest.mark.parametrize(
    "value",
    [
        RecogniserInfo("m", ("en",), 1, 1, 1),
        Utterance(np.zeros(1, np.float32), steps=1),
        WORDS[0],
        Hypothesis((), (), (), 1, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_passes_between_threads_cannot_change(value: object) -> None:
    name = dataclasses.fields(value)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)
    assert not hasattr(value, "__dict__")


def test_an_utterance_asks_for_nothing_by_itself() -> None:
    utterance = Utterance(np.zeros(SAMPLE_RATE, np.float32), steps=8)
    assert (utterance.language, utterance.draft, utterance.seed, utterance.trace) == (
        None,
        (),
        0,
        False,
    )


def test_the_fake_is_a_recogniser_in_every_call() -> None:
    recogniser: Recogniser = FakeRecogniser()
    calls = [name for name in vars(Recogniser) if not name.startswith("_")]
    assert sorted(calls) == ["info", "release", "start", "step", "warm_up"]
    assert [name for name in calls if not hasattr(recogniser, name)] == []


def test_it_loads_no_model() -> None:
    code = f"import sys, {interface.__name__}; print({{'torch', 'asyncio'}} & set(sys.modules))"
    environ = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.strip() == "set()"


def test_rows_run_to_the_end_of_each_and_are_released() -> None:
    released: list[Any] = []

    class Recording(FakeRecogniser):
        def release(self, rows: Sequence[Row]) -> None:
            released.extend(rows)
            super().release(rows)

    recogniser = Recording()
    pcm = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE).astype(np.float32)
    rows = recogniser.start([Utterance(pcm, steps=steps) for steps in (3, 1, 2)])
    ends = run_to_end(recogniser, rows)
    assert [each.step for each in ends] == [3, 1, 2]
    assert all(each.is_final for each in ends)
    assert released == list(rows)
    assert run_to_end(recogniser, []) == []
