"""Which clips of a manifest are measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stream_server.errors import ConfigError
from stream_server.evaluation.manifest import Example, Selection, read_audio, read_examples
from stream_server.recogniser.interface import SAMPLE_RATE
from stream_server.training.recipe import Recipe, read_recipe

CLIPS = [
    ("a.wav", "one two", "ann", 1.0),
    ("b.wav", "three", "bob", 0.6),
    ("c.wav", None, "bob", 0.5),
    ("d.wav", None, None, 0.4, None),
]


@pytest.fixture
def manifest(write_manifest: Callable[..., Path]) -> Path:
    return write_manifest(CLIPS)


def names(manifest: Path, selection: Selection) -> list[str]:
    found = read_examples(manifest, selection)
    return [example.audio.name for example in found if example.audio]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), ["a.wav", "b.wav"]),
        (Selection(longest=0.8), ["b.wav"]),
        (Selection(speakers=("bob",)), ["b.wav"]),
        (Selection(untranscribed=True), ["a.wav", "b.wav", "c.wav"]),
        (Selection(silent=True), ["d.wav"]),
        (Selection(limit=1), ["a.wav"]),
        (Selection(limit=2, untranscribed=True), ["a.wav", "c.wav"]),
    ],
)
def test_selection(manifest: Path, selection: Selection, expected: list[str]) -> None:
    assert names(manifest, selection) == expected


def recipe(tmp_path: Path, rules: str) -> Recipe:
    file = tmp_path / "recipe.toml"
    text = f'name = "r"\nvocabulary = 10\n[model]\n[speech.weights]\ntoy = 1.0\n{rules}'
    file.write_text(text, encoding="utf-8")
    return read_recipe(file)


def test_held_out_clips_are_those_that_training_leaves_out(manifest: Path, tmp_path: Path) -> None:
    by_speaker = recipe(tmp_path, '[speech.held_out.toy]\nspeakers = ["bob"]')
    assert names(manifest, Selection(recipe=by_speaker)) == ["b.wav"]
    by_name = recipe(tmp_path, "[speech.held_out.toy]\nlast_clips = 1")
    assert names(manifest, Selection(recipe=by_name)) == ["b.wav"]


def test_a_set_that_a_recipe_does_not_use_is_held_out_whole(
    write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    other = write_manifest(CLIPS, "other")
    rule = recipe(tmp_path, '[speech.held_out.toy]\nspeakers = ["bob"]')
    assert names(other, Selection(recipe=rule)) == ["a.wav", "b.wav"]


def test_a_set_that_was_trained_on_whole_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds something out, not toy"):
        read_examples(manifest, Selection(recipe=recipe(tmp_path, "")))


def test_texts_that_a_recipe_brings_along_are_those_of_stretches(
    write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    untold = write_manifest([(name, None, who, 1.0) for name, _, who, *_ in CLIPS[:2]])
    lines = (
        '{"audio": "a.wav", "text": "one", "language": "en", "speaker": "ann", "duration": 0.5,'
        ' "start": 8000, "end": 16000}\n'
        '{"audio": "b.wav", "text": "three", "language": "en", "speaker": "bob", "duration": 0.1,'
        ' "start": 100, "end": 1700}\n'
        '{"audio": "b.wav", "text": "four", "language": "en", "speaker": "bob", "duration": 0.1,'
        ' "start": 1700, "end": 90000}\n'
    )
    (tmp_path / "read.jsonl").write_text(lines)
    rules = '[speech.manifests]\ntoy = "read.jsonl"\n[speech.held_out.toy]\nspeakers = ["bob"]'
    kept, beyond = read_examples(untold, Selection(recipe=recipe(tmp_path, rules)))
    assert (kept.text, kept.start, kept.end) == ("three", 100, 1700)
    assert len(read_audio(kept, 5, 6)) == 1611
    with pytest.raises(ConfigError, match="end=90000"):
        read_audio(beyond)


def test_nothing_to_measure_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is there"):
        read_examples(tmp_path / "no.jsonl", Selection())
    with pytest.raises(ConfigError, match="transcribed clips"):
        read_examples(manifest, Selection(speakers=("nobody",)))
    with pytest.raises(ConfigError, match="without speech"):
        read_examples(manifest, Selection(silent=True, longest=0.1))


def test_a_wrong_line_is_named(manifest: Path) -> None:
    manifest.write_text('{"audio": "a.wav", "duration": 1}\n{"audio": 3}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"manifest.jsonl:2.*audio"):
        read_examples(manifest, Selection())


def test_read_audio_pads_both_sides(manifest: Path) -> None:
    example = read_examples(manifest, Selection())[0]
    pcm = read_audio(example, 100, 200)
    assert len(pcm) == SAMPLE_RATE + 300
    assert not pcm[:100].any()
    assert not pcm[-200:].any()
    assert pcm[100:-200].any()


def test_silence_needs_no_file() -> None:
    pcm = read_audio(Example(None, None, None, None, 0.5))
    assert len(pcm) == SAMPLE_RATE // 2
    assert not pcm.any()


def test_audio_that_is_wrong_or_missing_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(800), 8000)
    with pytest.raises(ConfigError, match="8000 Hz"):
        read_audio(Example(tmp_path / "x.wav", "a", "en", None, 0.1))
    with pytest.raises(ConfigError, match=r"gone\.wav"):
        read_audio(Example(tmp_path / "gone.wav", "a", "en", None, 0.1))
