"""Kokoro says lines by mixtures of voices; its real network runs here, with random weights."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stream_server.errors import ConfigError
from stream_server.training.kokoro import (
    Line,
    Speaker,
    draw_lines,
    speak_everywhere,
    speak_lines,
    spell,
    symbols,
    voice_names,
)
from stream_server.training.pack import RATE
from tests.environments import INSTALL_SECONDS

CPU = torch.device("cpu")
NAMES = ["af_a", "am_b", "bf_c", "jf_d", "zm_e"]
TEXTS = [f"text {number}" for number in range(1000)]
HELLO = Line("hello there", (("af_one", 1.0),), british=False, speed=1.0)

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"
)
installs = pytest.mark.timeout(INSTALL_SECONDS + 120)


def test_each_text_is_said_once_and_in_order() -> None:
    drawn = draw_lines(TEXTS, NAMES, seed=1)
    assert [line.text for line in drawn] == TEXTS
    assert draw_lines(TEXTS, NAMES, seed=1) == drawn
    assert draw_lines(TEXTS, NAMES, seed=2) != drawn


def test_a_mixture_is_of_one_to_three_voices_whose_shares_are_one() -> None:
    drawn = draw_lines(TEXTS, NAMES, seed=1)
    for line in drawn:
        assert math.isclose(sum(share for _, share in line.voices), 1)
        assert all(share > 0 for _, share in line.voices)
        slowest = 0.75 * 0.75 if line.habits else 0.75
        assert slowest <= line.speed <= 1.3
    counts = [len(line.voices) for line in drawn]
    assert set(counts) == {1, 2, 3}
    assert 300 < counts.count(1) < 400


def test_most_voices_are_english_and_theirs_decides_the_accent() -> None:
    drawn = draw_lines(TEXTS, NAMES, seed=1)
    names = [name for line in drawn for name, _ in line.voices]
    assert set(names) == set(NAMES)
    # 55 % are drawn of the English ones, the others of all, three fifths of which are English.
    assert sum(name[0] in "ab" for name in names) / len(names) == pytest.approx(0.82, abs=0.03)
    assert all(line.british for line in drawn if line.voices[0][0][0] == "b")
    others = [line.british for line in drawn if line.voices[0][0][0] != "b"]
    assert sum(others) / len(others) == pytest.approx(0.15, abs=0.04)


def test_a_third_are_children_and_some_learners_stop_between_words() -> None:
    drawn = draw_lines(TEXTS, NAMES, seed=1)
    assert sum(line.height > 1 for line in drawn) / len(drawn) == pytest.approx(0.35, abs=0.04)
    assert all(0.88 <= line.height <= 1.4 for line in drawn)
    stopping = [line for line in drawn if line.pauses]
    assert all(line.habits for line in stopping)
    learners = sum(bool(line.habits) for line in drawn)
    assert len(stopping) / learners == pytest.approx(0.4, abs=0.05)


def test_voices_of_other_languages_do_where_none_is_english() -> None:
    (line,) = draw_lines(["one"], ["jf_d"], seed=1)
    assert {name for name, _ in line.voices} == {"jf_d"}


@pytest.mark.parametrize(
    ("said", "american", "british"),
    [
        ("ɐ d^ʒˈʌd^ʒ", "ɐ ʤˈʌʤ", "ɐ ʤˈʌʤ"),
        ("ɐbˈa^ʊt ɐn ˈe^ɪt^ʃ", "əbˈWt ɐn ˈAʧ", "əbˈWt ɐn ˈAʧ"),
        ("mˈoː^ɹ wˈɔːɾɚ", "mˈɔɹ wˈɔTəɹ", "mˈɔːɹ wˈɔːTəɹ"),
        ("ɡˈo^ʊ nˈə^ʊ", "ɡˈO nˈQ", "ɡˈO nˈQ"),
        ("nˈɜːs hɜːɹ", "nˈɜɹs hɜɹ", "nˈɜːs hɜːɹ"),
        ("lˈɪtə^l bˈʌʔn\u0329 lˈɒx", "lˈɪtᵊl bˈʌtᵊn lˈɒk", "lˈɪtᵊl bˈʌtᵊn lˈɒk"),
        ("ðe^ə hˈi^ə", "ðɛ hˈiə", "ðɛː hˈɪə"),
        ("bˈɔ^ɪ ˈa^ɪ", "bˈY ˈI", "bˈY ˈI"),
    ],
)
def test_phones_are_written_as_the_network_learnt_them(
    said: str, american: str, british: str
) -> None:
    assert spell(said, british=False) == american
    assert spell(said, british=True) == british


@needs_espeak
def test_words_are_apart_and_end_with_a_full_stop() -> None:
    text = "he said that the end of the water was for a better life in the city"
    for british, water in ((False, "wˈɔTəɹ"), (True, "wˈɔːtə")):
        said = symbols(text, british)
        assert said[-1] == "."
        words = said[:-1].split()
        assert len(words) == len(text.split())
        assert words[3] == "ðɪ", "before a vowel"
        assert words[6:9] == ["ðə", water, "wɒz" if british else "wʌz"]
        assert words[10] == "ɐ"


@needs_espeak
@installs
def test_what_is_said_is_speech_of_our_rate(kokoro_folder: Path) -> None:
    speaker = Speaker(kokoro_folder, CPU)

    def say(*voices: tuple[str, float], speed: float = 1.0, height: float = 1.0) -> np.ndarray:
        torch.manual_seed(0)
        line = Line("hello there", voices, british=False, speed=speed, height=height)
        return speaker.speak(line)

    plain = say(("af_one", 1.0))
    # Twelve symbols and both ends, of two frames and a half: 14 x 2.5 x 25 ms.
    assert 0.3 * RATE < len(plain) < 1.5 * RATE
    assert plain.dtype == np.int16
    assert np.abs(plain).max() > 0
    np.testing.assert_array_equal(plain, say(("af_one", 1.0)))
    assert len(say(("af_one", 1.0), speed=0.5)) > 1.3 * len(plain)
    # A child's is as long: said slower, and played faster for it.
    high = say(("af_one", 1.0), height=1.25)
    assert len(high) == pytest.approx(len(plain), rel=0.15)
    assert len(high) == pytest.approx(len(say(("af_one", 1.0), speed=0.8)) / 1.25, abs=1)
    mixed = say(("af_one", 0.5), ("am_two", 0.5))
    assert mixed.shape != plain.shape or (mixed != plain).any()


@installs
def test_a_style_is_of_the_voices_shares_and_the_texts_length(kokoro_folder: Path) -> None:
    speaker = Speaker(kokoro_folder, CPU)
    files = (kokoro_folder / "voices" / f"{name}.bin" for name in ("af_one", "jf_four"))
    one, four = (np.fromfile(path, np.float32).reshape(30, 256) for path in files)
    mixture = (("af_one", 0.25), ("jf_four", 0.75))
    np.testing.assert_allclose(speaker.style(mixture, 7), 0.25 * one[6] + 0.75 * four[6], rtol=1e-5)
    np.testing.assert_array_equal(speaker.style((("af_one", 1.0),), 400), one[-1])


@needs_espeak
@installs
def test_lines_are_said_until_the_time_is_over(kokoro_folder: Path) -> None:
    (said,) = speak_lines(kokoro_folder, [HELLO], "cpu", seed=0, seconds=math.inf)
    assert (said.text, said.speaker, said.set) == ("hello there", "af_one", "kokoro")
    assert len(said.pcm) > 0.3 * RATE
    assert speak_lines(kokoro_folder, [HELLO], "cpu", seed=0, seconds=-1) == []


@needs_espeak
@installs
def test_processes_share_the_lines(kokoro_folder: Path) -> None:
    both = [HELLO, Line("good", (("am_two", 0.5), ("bf_three", 0.5)), british=True, speed=1.2)]
    said = speak_everywhere(kokoro_folder, both, ["cpu"], workers=2, seconds=math.inf)
    assert [(each.text, each.speaker) for each in said] == [
        ("hello there", "af_one"),
        ("good", "am_two+bf_three"),
    ]


@installs
def test_weights_that_are_not_there_are_named(kokoro_folder: Path, tmp_path: Path) -> None:
    import onnx

    shutil.copytree(kokoro_folder / "voices", tmp_path / "voices")
    shutil.copy(kokoro_folder / "vocab.json", tmp_path)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), tmp_path / "m")
    with pytest.raises(ConfigError, match=r"kokoro\.onnx' is not valid: what 'train voices' wrote"):
        Speaker(tmp_path, CPU)
    (tmp_path / "m").rename(tmp_path / "kokoro.onnx")
    with pytest.raises(ConfigError, match=r"weights of \['bert\.embeddings.*norm1\.fc\.weight"):
        Speaker(tmp_path, CPU)


@installs
def test_a_package_that_is_missing_is_named(
    kokoro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("kokoro.")]:
        monkeypatch.delitem(sys.modules, name)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "attr", None)
        with pytest.raises(ConfigError, match=r"attr.*pip install 'diffscribe\[voices\]'"):
            Speaker(kokoro_folder, CPU)
        assert "kokoro" not in sys.modules
    monkeypatch.setitem(sys.modules, "kokoro", None)
    with pytest.raises(ConfigError, match="pip install --no-deps kokoro"):
        Speaker(kokoro_folder, CPU)


def test_a_folder_has_voices_or_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="what 'train voices' wrote"):
        voice_names(tmp_path)
    (tmp_path / "voices").mkdir()
    for name in ("bm_two", "af_one"):
        (tmp_path / "voices" / f"{name}.bin").touch()
    assert voice_names(tmp_path) == ["af_one", "bm_two"]
