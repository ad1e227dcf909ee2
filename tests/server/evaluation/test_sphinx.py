"""PocketSphinx hears English, and is asked for where it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from stream_server.errors import ModelError
from stream_server.evaluation.accuracy import decode
from stream_server.evaluation.manifest import Example, read_audio
from stream_server.evaluation.sphinx import load_sphinx
from stream_server.recogniser.interface import Utterance

CLIP = Path(__file__).parents[2] / "data" / "digits.opus"


def test_it_hears_digits_in_the_bundled_clip() -> None:
    pytest.importorskip("pocketsphinx", reason="the extra [reference] is not installed")
    sphinx = load_sphinx()
    pcm = read_audio(Example(CLIP, None, "en", None, 0.0))
    digits = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
    heard, silence = decode(sphinx, [Utterance(pcm, 1), Utterance(np.zeros(1600, np.float32), 1)])
    assert len(digits & set(heard.text.split())) >= 3, heard.text
    assert len(silence.text.split()) <= 1


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ModelError, match=r"diffscribe\[reference\]"):
        load_sphinx()
