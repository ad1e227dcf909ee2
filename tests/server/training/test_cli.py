"""From a folder of recordings to a checkpoint that is served, on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from stream_server.config import RecogniserConfig
from stream_server.recogniser.checkpoint import load_model, load_recogniser
from stream_server.recogniser.interface import Utterance
from stream_server.training.cli import app
from stream_server.training.pack import RATE, Samples, read_packs, read_spoken
from stream_server.training.phones import Lexicon
from stream_server.training.tuning import START, describe

pytestmark = pytest.mark.skipif(
    not (shutil.which("espeak-ng") and shutil.which("flite")),
    reason="espeak-ng and flite are not installed",
)
WORDS = ("zero", "one", "two", "three", "four", "five")


@pytest.fixture
def speech(tmp_path: Path, tone: Callable[..., Samples]) -> Path:
    """Sets of tones; a speaker and a clip that is too long are among them."""
    root = tmp_path / "speech"
    for name in ("tones", "words", "unused"):
        (root / name).mkdir(parents=True)
        entries = []
        for number, word in enumerate(WORDS):
            pcm = tone(number, 60_000 if word == "five" else 6000)
            soundfile.write(root / name / f"{number}.wav", pcm, RATE, subtype="PCM_16")
            speaker = "held" if word == "four" else "ann"
            entries.append(
                {
                    "audio": f"{number}.wav",
                    "text": word,
                    "language": "en",
                    "speaker": speaker,
                    "duration": len(pcm) / RATE,
                }
            )
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        (root / name / "manifest.jsonl").write_text(lines)
    (tmp_path / "sentences.txt").write_text("a|The Quick Fox.\nb|Four!\nc|The lazy dog\n")
    return root


def command(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def packed(recipe_file: Path, speech: Path, tmp_path: Path) -> Path:
    """What ``pack`` wrote."""
    folder = tmp_path / "packed"
    sentences = tmp_path / "sentences.txt"
    result = command(
        "pack", recipe_file, "--speech", speech, "--sentences", sentences, "--output", folder
    )
    assert result.exit_code == 0, result.output
    return folder


def train(recipe_file: Path, packed: Path, output: Path, *more: str | Path) -> Result:
    result = command(
        "run", recipe_file, "--data", packed, "--output", output, "--device", "cpu",
        "--workers", "1", *more,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return result


def test_a_pack_has_what_is_trained_on_and_nothing_that_is_tested_on(packed: Path) -> None:
    clips = read_packs(packed, workers=1)
    said = [(clip.set, clip.text, clip.speaker) for clip in clips if not clip.held_out]
    assert said == [
        *(("tones", word, "ann") for word in WORDS[:4]),
        *(("words", word, "held" if word == "four" else "ann") for word in WORDS[:5]),
    ]
    sentences = (packed / "sentences.txt").read_text().splitlines()
    assert sentences == ["the quick fox", "the lazy dog"]


def test_a_pack_says_how_its_words_sound(packed: Path) -> None:
    lexicon = Lexicon.load(packed / "lexicon.json")
    for text in ("one two three", "the quick fox", "oh"):
        assert len(lexicon.encode(text)) >= len(text.split())


def test_what_is_tested_on_is_packed_apart(packed: Path) -> None:
    kept = [clip for clip in read_packs(packed, workers=1) if clip.held_out]
    assert [(clip.set, clip.text, clip.speaker) for clip in kept] == [("tones", "four", "held")]


def test_examples_of_wordnet_are_synthesised_but_what_is_tested_on(
    recipe_file: Path, speech: Path, tmp_path: Path
) -> None:
    wordnet = tmp_path / "wordnet"
    wordnet.mkdir()
    line = '00001 03 n 01 cat 0 | a feline; "the cat sat down"\n'
    (wordnet / "data.noun").write_text(line)
    command(
        "pack", recipe_file, "--speech", speech, "--sentences", tmp_path / "sentences.txt",
        "--output", tmp_path / "packed", "--wordnet", wordnet,
    )  # fmt: skip
    sentences = (tmp_path / "packed" / "sentences.txt").read_text().splitlines()
    assert sentences == ["the quick fox", "the lazy dog", "the cat sat down"]


def test_what_a_recipe_asks_for_is_spoken_and_trained_on(
    recipe_file: Path, packed: Path, tmp_path: Path
) -> None:
    text = recipe_file.read_text().replace("[speech]", "[speech]\nsynthetic = 4")
    recipe_file.write_text(text.replace("vocabulary = 32", "vocabulary = 64"))
    assert command("synthesise", recipe_file, "--data", packed).exit_code == 0
    spoken = read_spoken(packed / "synthetic.npz")
    assert len(spoken) == 4
    assert {clip.set for clip in spoken} <= {"espeak", "flite"}
    assert "13 clips, " in train(recipe_file, packed, tmp_path / "run").output


def test_only_clips_of_the_words_asked_for_are_packed(
    recipe_file: Path, speech: Path, tmp_path: Path
) -> None:
    text = recipe_file.read_text()
    only = '[speech.only]\nwords = ["one", "two"]\n[speech.weights]'
    recipe_file.write_text(text.replace("[speech.weights]", only))
    sentences = tmp_path / "sentences.txt"
    command("pack", recipe_file, "--speech", speech, "--sentences", sentences, "--output", tmp_path)
    clips = read_packs(tmp_path, workers=1)
    assert [clip.text for clip in clips if clip.set == "words"] == ["one", "two"]


def test_a_run_ends_in_a_checkpoint_that_is_served(
    recipe_file: Path, packed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    text = train(recipe_file, packed, output).output
    assert "9 clips, " in text
    assert "from update 0" in text
    (errors,) = map(json.loads, (output / "validation.jsonl").read_text().splitlines())
    assert (errors["step"], errors["set"]) == (2, "tones")
    assert errors["ctc_wer"] >= 0
    assert errors["wer"] >= 0
    assert torch.load(output / "state.pt", weights_only=True)["step"] == 2
    config = RecogniserConfig(model=str(output / "checkpoint"), device="cpu")
    recogniser = load_recogniser(config)
    assert recogniser.info.name == "toy"
    rows = recogniser.start([Utterance(np.zeros(8000, np.float32), steps=1)])
    assert len(recogniser.step(rows)) == 1


def test_a_run_that_is_over_is_not_run_again(
    recipe_file: Path, packed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    train(recipe_file, packed, output)
    before = (output / "state.pt").stat().st_mtime_ns
    assert "from update 2" in train(recipe_file, packed, output).output
    assert (output / "state.pt").stat().st_mtime_ns == before


def test_a_run_goes_on_where_it_stopped(recipe_file: Path, packed: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train(recipe_file, packed, output)
    longer = recipe_file.read_text().replace("steps = 2", "steps = 4")
    recipe_file.write_text(longer)
    assert "from update 2" in train(recipe_file, packed, output, "--save-every", "1").output
    assert torch.load(output / "state.pt", weights_only=True)["step"] == 4


def test_a_run_can_begin_from_another_s_weights(
    recipe_file: Path, packed: Path, tmp_path: Path
) -> None:
    train(recipe_file, packed, tmp_path / "first")
    start = tmp_path / "first" / "checkpoint"
    # Two updates at next to no rate leave the weights where they were.
    slow = recipe_file.read_text().replace("3e-3", "1e-12")
    recipe_file.write_text(slow.replace("warmup = 1", "warmup = 100"))
    result = train(recipe_file, packed, tmp_path / "second", "--start", start)
    assert "from update 0" in result.output
    one, two = (load_model(tmp_path / name / "checkpoint")[0] for name in ("first", "second"))
    for (name, before), after in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(before, after, msg=name)
    names = ("first", "second")
    files = [tmp_path / name / "checkpoint" / "tokenizer.json" for name in names]
    first, second = (path.read_text() for path in files)
    assert first == second


@pytest.mark.parametrize("words", [("run",), ("pack",), ("run", "nowhere.toml")])
def test_what_is_missing_is_told(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, list(words)).exit_code == 2


def test_a_voice_can_be_heard(tmp_path: Path) -> None:
    lengths = set()
    for seed in ("0", "3"):
        result = command("speak", "hello there", "--output", tmp_path / "a.wav", "--seed", seed)
        assert result.exit_code == 0
        pcm, rate = soundfile.read(tmp_path / "a.wav")
        assert rate == RATE
        assert np.abs(pcm).max() > 0.05
        lengths.add(len(pcm))
    assert len(lengths) == 2


def test_a_language_model_is_learnt_and_weighed(
    recipe_file: Path, speech: Path, packed: Path, tmp_path: Path
) -> None:
    train(recipe_file, packed, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint"
    recipe_file.write_text(recipe_file.read_text() + "\n[language]\norder = 3\nentries = 500\n")
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "lines.txt").write_text("one two three\nfour five\n" * 3)
    result = command("language", recipe_file, "--texts", texts, "--checkpoint", checkpoint)
    assert result.exit_code == 0, result.output
    assert "5 words" in result.output
    model, _ = load_model(checkpoint)
    assert model.language is not None
    assert model.language.order == 3

    result = command("tune", recipe_file, "--speech", speech, "--checkpoint", checkpoint)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith(describe(START)[:20])
    assert "wrong, of clips that decide nothing" in lines[0]
    stored, _ = load_model(checkpoint)
    assert lines[-1] == f"stored: {describe(stored.config.draft)}"
    assert stored.config.draft.language > 0
    assert stored.config.draft.guidance == model.config.draft.guidance
    assert stored.language is not None
