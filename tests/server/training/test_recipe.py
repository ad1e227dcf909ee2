"""Every recipe of the tree describes a network, and a wrong key is named."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import stream_server.training
from stream_server.errors import ConfigError
from stream_server.recogniser.model import TranscriptionModel
from stream_server.recogniser.tokenizer import LANGUAGES
from stream_server.training.corpus import BatchConfig
from stream_server.training.data import HeldOut
from stream_server.training.loop import model_config
from stream_server.training.recipe import OptimiserConfig, build, read_recipe, with_scheme

RECIPES = sorted(Path(stream_server.training.__file__).parent.glob("recipes/*.toml"))
FROM_SCRATCH = [path for path in RECIPES if path.stem.startswith("embedded")]
"""The others train adapters: test_published_run.py."""


@pytest.fixture
def change(recipe_file: Path) -> Callable[[str, str], Path]:
    """Replaces a text of the toy recipe."""

    def replace(old: str, new: str) -> Path:
        text = recipe_file.read_text()
        assert text.count(old) == 1, old
        recipe_file.write_text(text.replace(old, new))
        return recipe_file

    return replace


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", FROM_SCRATCH, ids=lambda path: path.stem)
def test_a_recipe_of_the_tree_builds_its_network(path: Path) -> None:
    recipe = read_recipe(path)
    config = model_config(recipe)
    with torch.device("meta"):
        model = TranscriptionModel(config)
    size = sum(parameter.numel() for parameter in model.parameters())
    assert 1e6 < size < 6e7, "small enough to be embedded"
    assert model.decoder.vocabulary == recipe.vocabulary
    assert config.projector.input_size == model.encoder.hidden_size
    assert config.projector.output_size == model.decoder.hidden_size
    assert config.encoder.get("num_mel_bins", 80) == config.features.mel_bins
    assert set(config.languages) <= set(LANGUAGES)
    assert config.name == recipe.name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_tree_is_sound(path: Path) -> None:
    recipe = read_recipe(path)
    speech, batch = recipe.speech, recipe.batch
    only_tested = set(speech.held_out) - set(speech.weights)
    assert all(speech.held_out[name].every for name in only_tested)
    assert set(speech.only) <= set(speech.weights)
    assert set(speech.manifests) <= set(speech.weights)
    assert all(manifest.is_file() for manifest in speech.manifests.values())
    assert set(batch.joined) <= set(speech.weights)
    assert all(weight > 0 for weight in speech.weights.values())
    assert path not in FROM_SCRATCH or max(batch.durations) <= model_config(recipe).max_seconds
    assert min(batch.durations) * batch.speed[0] > 1.0, "there is room for silence around speech"
    assert recipe.optimiser.warmup < recipe.optimiser.steps
    assert recipe.optimiser.final_rate < recipe.optimiser.learning_rate


def test_what_a_recipe_leaves_out_is_the_default(recipe_file: Path) -> None:
    recipe = read_recipe(recipe_file)
    assert recipe.optimiser.average == OptimiserConfig().average
    assert recipe.optimiser.learning_rate == 3e-3
    assert recipe.batch.durations == (1.0,)
    assert recipe.batch.speed == BatchConfig().speed
    assert recipe.speech.held_out == {"tones": HeldOut(speakers=("held",))}
    assert recipe.losses.ctc == 0.5


def test_lists_become_tuples(change: Callable[[str, str], Path]) -> None:
    path = change("[speech.weights]", '[speech.only]\ntones = ["one", "two"]\n[speech.weights]')
    assert read_recipe(path).speech.only == {"tones": ("one", "two")}


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("max_seconds = 3.0", "colour = 3", "speech.colour"),
        ('speakers = ["held"]', "colour = 3", "speech.held_out.tones.colour"),
        ("durations = [1.0]", "colour = 3", "batch.colour"),
        ("warmup = 1", "colour = 3", "optimiser.colour"),
        ("[optimiser]", "[losses]\ncolour = 3\n[optimiser]", "losses.colour"),
        ("[optimiser]", "[augment]\ncolour = 3\n[optimiser]", "augment.colour"),
        pytest.param(
            "[optimiser]",
            "[optimizer]",
            "optimizer",
        ),
        pytest.param(
            'name = "toy"',
            'name = "toy"\ncolour = "red"',
            "colour",
        ),
    ],
)
def test_an_unknown_key_is_named(
    change: Callable[[str, str], Path], old: str, new: str, key: str
) -> None:
    path = change(old, new)
    with pytest.raises(ConfigError, match="colour|optimizer") as caught:
        read_recipe(path)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ctc_parts = 4", "colour = 4"),
        ("[model.canvas]", "[model.canvas]\ncolour = 4"),
        ("halvings = 2", "colour = 2"),
    ],
)
@pytest.mark.xfail(
    strict=True, raises=TypeError, reason="the network's keys are checked as JSON, by TypeError"
)
def test_an_unknown_key_of_the_network_is_named(
    change: Callable[[str, str], Path], old: str, new: str
) -> None:
    with pytest.raises(ConfigError, match="colour"):
        model_config(read_recipe(change(old, new)))


@pytest.mark.parametrize("key", ["name", "vocabulary"])
def test_a_missing_key_is_named(recipe_file: Path, key: str) -> None:
    lines = recipe_file.read_text().splitlines()
    recipe_file.write_text("\n".join(line for line in lines if not line.startswith(f"{key} =")))
    with pytest.raises(ConfigError, match=key):
        read_recipe(recipe_file)


def test_the_known_keys_are_told() -> None:
    with pytest.raises(ConfigError, match="known keys are .*durations.*seconds"):
        build(BatchConfig, {"colour": 3}, "batch")


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(tomllib.TOMLDecodeError):
        read_recipe(tmp_path / "broken.toml")


def test_the_scheme_can_be_another(recipe_file: Path) -> None:
    recipe = read_recipe(recipe_file)
    assert with_scheme(recipe, None) == recipe
    absorbing = with_scheme(recipe, "absorbing")
    assert model_config(absorbing).sampler.is_absorbing
    assert not model_config(recipe).sampler.is_absorbing
    with pytest.raises(ConfigError, match="uniform, absorbing"):
        with_scheme(recipe, "gaussian")
