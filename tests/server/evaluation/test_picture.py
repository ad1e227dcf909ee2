"""The picture of a sweep is written, and what cannot be drawn is refused."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

from stream_server.errors import ConfigError
from stream_server.evaluation.accuracy import Heard
from stream_server.evaluation.manifest import Example
from stream_server.evaluation.picture import plot_steps
from stream_server.evaluation.report import Decoding, Result, summarise


def result(name: str, steps: int | None, reference: str | None, language: str) -> Result:
    clip = Example(Path("a.wav"), reference, language, None, 1.0)
    heard = Heard(clip, "a b", steps=1, audio=1.0, seconds=0.1)
    return summarise(name, [heard], Decoding(steps), False)


def test_a_sweep_is_drawn(tmp_path: Path) -> None:
    results = [result("one", steps, "a c", "en") for steps in (8, 1, 2)]
    results += [result("two", steps, "你好", "zh") for steps in (1, 2, 8)]
    plot_steps("toy", results, tmp_path / "sweep.png")
    assert matplotlib.image.imread(tmp_path / "sweep.png").std() > 0.01
    plot_steps("toy", results, tmp_path / "sweep.svg")
    drawn = (tmp_path / "sweep.svg").read_text(encoding="utf-8")
    assert drawn.count("two zh, CER, 1 clips") == drawn.count("one en, WER, 1 clips") >= 1


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    sweep = [result("one", 8, "a c", "en")]
    with pytest.raises(ConfigError, match="can be written"):
        plot_steps("toy", sweep, tmp_path / "gone" / "sweep.png")
    with pytest.raises(ConfigError, match="can be written"):
        plot_steps("toy", sweep, tmp_path / "sweep.jpeg2")
    for empty in ([result("one", None, "a", "en")], [result("one", 8, None, "en")]):
        with pytest.raises(ConfigError, match="transcribed"):
            plot_steps("toy", empty, tmp_path / "sweep.png")
