"""A run of the published recipe, from a pack to an adapter that loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stream_server.errors import ConfigError, ModelError
from stream_server.recogniser.adapter import fill, read_adapter
from stream_server.recogniser.backbone import FULL_SIZE
from stream_server.recogniser.projector import Projector
from stream_server.recogniser.published import PublishedModel
from stream_server.training import published_run
from stream_server.training.pack import Packed
from stream_server.training.published_run import (
    RunOptions,
    is_published,
    published_config,
    rehearsal_parts,
    train_published,
)
from stream_server.training.recipe import read_recipe

CPU = torch.device("cpu")
RECIPES = Path(published_run.__file__).with_name("recipes")
REHEARSAL = RunOptions(save_every=2, report_every=1, updates=3, rehearse=True)


@pytest.fixture
def _pack(clips: list[Packed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_run, "read_packs", lambda folder, workers: clips)


@pytest.mark.usefixtures("_pack")
def test_a_run_leaves_log_curves_state_and_adapter(
    published_recipe_file: Path, clips: list[Packed], tmp_path: Path
) -> None:
    recipe = read_recipe(published_recipe_file)
    train_published(recipe, tmp_path, tmp_path / "run", CPU, REHEARSAL)
    train_published(recipe, tmp_path, tmp_path / "run", CPU, REHEARSAL)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    assert state["step"] == 6
    config, weights = read_adapter(tmp_path / "run/adapter")
    assert config.name == recipe.name
    assert config.lora.rank == 2
    parts = rehearsal_parts(recipe, clips, CPU)
    model = PublishedModel(config, parts.encoder, parts.backbone, parts.prompts)
    fill(model, weights, tmp_path)
    for name, tensor in model.trained().items():
        assert torch.equal(tensor, state["trained"][name]), name


@pytest.mark.usefixtures("_pack")
def test_without_a_rehearsal_the_named_parts_are_loaded(
    published_recipe_file: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(published_recipe_file)
    with pytest.raises(ModelError, match=r"audio_encoder '/no/encoder': not a folder"):
        train_published(recipe, tmp_path, tmp_path / "run", CPU, RunOptions())


def test_the_recipe_trains_as_many_weights_as_the_published_adapter_has() -> None:
    recipe = read_recipe(RECIPES / "published.toml")
    assert is_published(recipe)
    assert recipe.vocabulary == FULL_SIZE["vocab_size"]
    config = published_config(recipe, 768, FULL_SIZE["hidden_size"])
    assert config.backbone == "google/diffusiongemma-26B-A4B-it"
    assert config.audio_encoder == "openai/whisper-small"
    projector = Projector(config.projector)
    count = sum(parameter.numel() for parameter in projector.parameters())
    assert count == 19_110_784
    # LoRA's share is counted in test_backbone.py: 42.1 M together, 168 MB in float32.
    assert config.lora.rank == 16
    assert recipe.losses.conditioned == 0.5


@pytest.mark.parametrize("name", ["digits_with_ctc", "embedded_en"])
def test_other_recipes_have_no_backbone(name: str) -> None:
    assert not is_published(read_recipe(RECIPES / f"{name}.toml"))


@pytest.mark.parametrize(
    ("section", "key"), [("model", "backbon"), ("model.lora", "r"), ("model.projector", "wide")]
)
def test_an_unknown_key_is_refused(section: str, key: str, published_recipe_file: Path) -> None:
    text = published_recipe_file.read_text()
    published_recipe_file.write_text(text.replace(f"[{section}]", f"[{section}]\n{key} = 3"))
    with pytest.raises(ConfigError, match=rf"{section}\.{key}=3"):
        published_config(read_recipe(published_recipe_file), 8, 8)


def test_a_rehearsal_s_prompts_are_numbered(
    published_recipe_file: Path, clips: list[Packed]
) -> None:
    parts: Any = rehearsal_parts(read_recipe(published_recipe_file), clips, CPU)
    assert parts.tokenizer.language(None) == 0
    assert parts.tokenizer.language("en") == 1
    assert len(parts.prompts) == 2
    said = parts.tokenizer.encode("one two")
    assert [text for text, _ in parts.tokenizer.words(said)] == ["one", " two"]
    assert "".join(map(parts.tokenizer.piece, said)).split() == ["one", "two"]
