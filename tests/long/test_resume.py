"""The commands of this folder in a short form, so that each works and says what it found.

Without the recordings they play the bundled clip, which is synthetic.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stream_protocol.messages import Final, Timings, Word
from tests.long.clock import wrong_times
from tests.long.kills import compare
from tests.long.lastword import is_alike, sound_end
from tests.long.live import Comparison
from tests.long.play import Heard, corrected, differing

ROOT = Path(__file__).parents[2]


def run(name: str, *options: str) -> tuple[int, str]:
    """Run a command; return its status and what it said."""
    packages = (ROOT, ROOT / "client", ROOT / "protocol")
    done = subprocess.run(
        [sys.executable, "-m", f"tests.long.{name}", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, packages))},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_kills_of_all_kinds_change_no_word() -> None:
    status, said = run("kills", "--model", "fake", "--kills", "16", "--seconds", "30")
    assert status == 0, said
    assert re.search(r"\d+ times resumed, [1-9]\d* words, 0 differ", said)


@pytest.mark.model
@pytest.mark.timeout(400)
def test_kills_change_no_word_of_the_embedded_model() -> None:
    options = ("--kills", "4", "--seconds", "20", "--server-share", "0", "--pace", "3")
    status, said = run("kills", *options)
    assert status == 0, said
    assert re.search(r"[1-9]\d* times resumed, [1-9]\d* words, 0 differ", said)


def test_a_rolling_restart_loses_nothing() -> None:
    status, said = run("rolling", "--streams", "10", "--seconds", "30")
    assert status == 0, said
    assert "10 streams moved" in said
    assert " 0 differ; 10 have each final at its place" in said


@pytest.mark.parametrize("option", [(), ("--ideal",)])
def test_the_pace_changes_no_word(option: tuple[str, ...]) -> None:
    status, said = run("pace", "--model", "fake", "--streams", "3", "--seconds", "10", *option)
    assert status == 0, said
    assert re.search(
        r"[1-9]\d* words, 0 differ; 3 have each final at its place; [1-9]\d* partials", said
    )


@pytest.mark.model
@pytest.mark.timeout(400)
def test_the_pace_changes_no_word_of_the_embedded_model() -> None:
    status, said = run("pace", "--streams", "1", "--seconds", "20", "--ideal")
    assert status == 0, said
    assert re.search(r"[1-9]\d* words, 0 differ; 1 have each final at its place; [1-9]\d* p", said)


def test_times_are_exact_in_each_format() -> None:
    status, said = run("clock", "--minutes", "4")
    assert status == 0, said
    assert said.count(" 0 wrong") == 5


@pytest.mark.model
@pytest.mark.timeout(400)
def test_the_last_word_is_there() -> None:
    status, said = run("lastword", "--clips", "4")
    assert status == 0, said
    assert "in 4 of 4 clips" in said


# --- what is lost is found --------------------------------------------------------------------


def final(text: str, start: int, end: int, *words: Word) -> Final:
    timings = Timings(1.0, 1.0, 1.0, 1)
    return Final(0, 0, 1, text, start, end, None, 1.0, list(words), timings)


def test_words_that_differ_are_counted() -> None:
    said = ["a", "b", "c"]
    assert differing(said, said) == 0
    assert differing(said, ["a", "c"]) == 1
    assert differing(said, ["a", "x", "y", "c"]) == 2
    assert differing([], ["a"]) == 1


def test_stable_words_that_a_final_has_otherwise_are_counted() -> None:
    assert corrected("", "a b") == corrected("a b", "a b c") == 0
    assert corrected("a x", "a b c") == 1
    assert corrected("a b", "") == 2


def test_live_streams_that_differ_are_told_from_others(capsys: pytest.CaptureFixture[str]) -> None:
    whole = Heard([final("a b", 0, 640)], samples=960)
    other = Heard([final("a c", 0, 640)], samples=960)
    assert Comparison([whole, whole], [whole, whole]).is_same
    assert not Comparison([whole], [Heard([final("a b", 0, 641)], samples=960)]).is_same
    assert not Comparison([whole], [Heard(whole.finals, samples=959)]).is_same
    compared = Comparison([whole, whole], [whole, other])
    assert not compared.is_same
    assert str(compared).startswith("4 words, 1 differ; 2 have")
    compared.print_differences()
    assert "stream 1, 0: 'a b' became 'a c'" in capsys.readouterr().out


def test_a_word_a_place_and_a_sample_are_missed(capsys: pytest.CaptureFixture[str]) -> None:
    whole = Heard([final("a b", 0, 640), final("c", 640, 960)], samples=960)
    assert compare(whole, whole, 960) == 0
    assert compare(whole, Heard([final("a b", 0, 640)], samples=960), 960) == 1
    moved = Heard([final("a b", 0, 640), final("c", 641, 960)], samples=960)
    assert compare(whole, moved, 960) == 1
    assert compare(whole, Heard(whole.finals, samples=959), 960) == 1
    capsys.readouterr()


def test_times_that_are_a_sample_off_are_found() -> None:
    word = Word("a", 500_000, 500_100, 1.0)
    late = Word("a", 2_500_001, 2_500_100, 1.0)
    said = [final("a", 499_000, 500_200, word), final("a", 2_499_000, 2_500_200, late)]
    assert len(wrong_times(Heard(said, samples=9), 2_000_000, 9)) == 1
    assert len(wrong_times(Heard(said[:1], samples=8), 2_000_000, 9)) == 2


def test_the_end_of_a_word_is_where_its_sound_ends() -> None:
    clip = np.random.default_rng(0).normal(0, 1e-4, 32_000).astype(np.float32)
    clip[8000:16_000] += 0.1 * np.sin(np.arange(8000) * 0.05).astype(np.float32)
    assert sound_end(clip, Word("a", 8000, 14_000, 1.0)) == 16_000
    assert sound_end(clip, Word("a", 8000, 20_000, 1.0)) == 16_000


def test_another_word_is_told_from_one_that_is_spelled_otherwise() -> None:
    assert is_alike("presison", "prison")
    assert is_alike("saad", "said")
    assert not is_alike("morning", "you")
    assert not is_alike("morning", "")
