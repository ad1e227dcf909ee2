"""A run goes from a pack to a checkpoint that is served, and on where it stopped."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from stream_server.config import RecogniserConfig
from stream_server.recogniser.checkpoint import load_model, load_recogniser
from stream_server.recogniser.interface import Utterance
from stream_server.training import embedded_run
from stream_server.training.corpus import Corpus
from stream_server.training.cuts import Cuts, write_cuts
from stream_server.training.data import Clip
from stream_server.training.embedded_run import (
    CUTS,
    KOKORO,
    SPOKEN,
    EmbeddedOptions,
    read_pack,
    train_embedded,
)
from stream_server.training.pack import RATE, Packed, Samples, write_packs, write_spoken
from stream_server.training.peers import PeerConfig
from stream_server.training.recipe import Recipe, read_recipe

WORDS = ("zero", "one", "two", "three", "four")
CPU = torch.device("cpu")
QUICK = EmbeddedOptions(workers=1)


@pytest.fixture
def pack(tmp_path: Path, tone: Callable[..., Samples]) -> Path:
    """Tones of two sets, one speaker of them kept for testing, and how their words sound."""
    clips = []
    for name in ("tones", "words"):
        for number, word in enumerate(WORDS):
            path = tmp_path / f"{name}{number}.wav"
            soundfile.write(path, tone(number, 6000), RATE, subtype="PCM_16")
            clips.append(Clip(path, word, "held" if word == "four" else "ann", 0.4, name))
    kept = [clip for clip in clips if clip.set == "tones" and clip.speaker == "held"]
    folder = tmp_path / "pack"
    folder.mkdir()
    trained = [clip for clip in clips if clip not in kept]
    write_packs(folder, trained, kept, 24_000, lambda done: None)
    lexicon = {word: " ".join(word) for word in WORDS}
    (folder / "lexicon.json").write_text(json.dumps(lexicon))
    return folder


def updates(output: Path) -> int:
    return int(torch.load(output / "state.pt", weights_only=True)["step"])


def test_a_pack_is_read_with_what_was_synthesised(pack: Path, tone: Callable[..., Samples]) -> None:
    clips, tests = read_pack(pack, workers=1)
    assert [clip.text for clip in clips] == [*WORDS[:4], *WORDS]
    assert [(clip.set, clip.text) for clip in tests] == [("tones", "four")]
    write_spoken(pack / SPOKEN, [Packed(tone(3), "three", "espeak", "espeak")])
    assert [clip.set for clip in read_pack(pack, workers=1)[0]][-1] == "espeak"
    write_spoken(pack / KOKORO, [Packed(tone(4), "four", "af_one", "kokoro")])
    assert [clip.set for clip in read_pack(pack, workers=1)[0]][-2:] == ["espeak", "kokoro"]


def test_a_run_ends_in_a_checkpoint_that_is_served(
    recipe: Recipe, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    train_embedded(recipe, pack, output, CPU, QUICK)
    printed = capsys.readouterr().out
    assert "9 clips, " in printed
    assert "from update 0" in printed
    (errors,) = map(json.loads, (output / "validation.jsonl").read_text().splitlines())
    assert (errors["step"], errors["set"]) == (2, "tones")
    assert errors["ctc_wer"] >= 0
    assert errors["wer"] >= 0
    assert updates(output) == 2
    config = RecogniserConfig(model=str(output / "checkpoint"), device="cpu")
    recogniser = load_recogniser(config)
    assert recogniser.info.name == "toy"
    rows = recogniser.start([Utterance(np.zeros(8000, np.float32), steps=1)])
    assert len(recogniser.step(rows)) == 1


def test_a_run_that_is_over_is_not_run_again(recipe: Recipe, pack: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train_embedded(recipe, pack, output, CPU, QUICK)
    before = (output / "state.pt").stat().st_mtime_ns
    train_embedded(recipe, pack, output, CPU, QUICK)
    assert (output / "state.pt").stat().st_mtime_ns == before


def test_a_run_goes_on_where_it_stopped(recipe: Recipe, pack: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train_embedded(recipe, pack, output, CPU, QUICK)
    longer = replace(recipe, optimiser=replace(recipe.optimiser, steps=4))
    train_embedded(longer, pack, output, CPU, replace(QUICK, save_every=1))
    assert updates(output) == 4
    steps = [
        json.loads(line)["step"] for line in (output / "validation.jsonl").read_text().splitlines()
    ]
    assert steps == [2, 3, 4]


def test_a_run_can_begin_from_another_s_weights(
    recipe_file: Path, pack: Path, tmp_path: Path
) -> None:
    train_embedded(read_recipe(recipe_file), pack, tmp_path / "first", CPU, QUICK)
    start = tmp_path / "first" / "checkpoint"
    # Two updates at next to no rate leave the weights where they were.
    slow = recipe_file.read_text().replace("3e-3", "1e-12")
    recipe_file.write_text(slow.replace("warmup = 1", "warmup = 100"))
    options = replace(QUICK, start=start)
    train_embedded(read_recipe(recipe_file), pack, tmp_path / "second", CPU, options)
    one, two = (load_model(tmp_path / name / "checkpoint")[0] for name in ("first", "second"))
    for (name, before), after in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(before, after, msg=name)
    files = [tmp_path / name / "checkpoint" / "tokenizer.json" for name in ("first", "second")]
    first, second = (path.read_text() for path in files)
    assert first == second


def test_cuts_that_lie_beside_a_pack_are_used(
    recipe: Recipe, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    class Watched(Corpus):
        def __init__(self, *arguments: Any) -> None:
            given.append(arguments[-1])
            super().__init__(*arguments)

    monkeypatch.setattr(embedded_run, "Corpus", Watched)
    train_embedded(recipe, pack, tmp_path / "without", CPU, QUICK)
    cuts = [Cuts((number,)) for number in range(9)]
    write_cuts(pack / CUTS, cuts)
    train_embedded(recipe, pack, tmp_path / "with", CPU, QUICK)
    assert given == [[], cuts]


def one_of_two(recipe: Recipe, pack: Path, output: Path, peer: PeerConfig) -> None:
    """A process of a run."""
    torch.set_num_threads(1)
    train_embedded(recipe, pack, output, CPU, replace(QUICK, peers=peer, save_every=2))


@pytest.mark.timeout(180)
def test_two_processes_train_one_network(recipe: Recipe, pack: Path, tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        meeting = f"tcp://127.0.0.1:{found.getsockname()[1]}"
    longer = replace(recipe, optimiser=replace(recipe.optimiser, steps=5))
    context = get_context("spawn")
    workers = [
        context.Process(
            target=one_of_two,
            args=(longer, pack, tmp_path / "run", PeerConfig(place, 2, meeting, 2)),
        )
        for place in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=150)
        assert worker.exitcode == 0
    assert updates(tmp_path / "run") == 5
    load_model(tmp_path / "run" / "checkpoint")
