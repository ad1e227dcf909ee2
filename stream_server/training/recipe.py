"""A recipe: one TOML file that says everything about a training run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from stream_server.errors import ConfigError
from stream_server.recogniser.denoise import SCHEMES
from stream_server.training.augment import AugmentConfig
from stream_server.training.corpus import BatchConfig
from stream_server.training.data import HeldOut
from stream_server.training.language_model import LanguageConfig
from stream_server.training.losses import LossConfig

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """AdamW with warm-up and a cosine to the end."""

    steps: int = 10_000
    learning_rate: float = 1e-3
    final_rate: float = 1e-5
    warmup: int = 600
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: str = "bf16"
    """``bf16`` (autocast, on a GPU) or ``tf32``."""
    average: float = 0.999
    """Decay of the moving average of the weights, which is what is kept."""


@dataclass(frozen=True, slots=True)
class SpeechConfig:
    """Which speech is trained on."""

    weights: dict[str, float] = field(default_factory=dict)
    """Probability weight of each set, ``espeak``, ``flite`` and ``kokoro`` included."""
    held_out: dict[str, HeldOut] = field(default_factory=dict)
    manifests: dict[str, Path] = field(default_factory=dict)
    """Of sets whose own manifests have no texts; a recipe names them as they lie beside it."""
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of these sets, only the clips that are made of these words."""
    max_seconds: float = 16.0
    """Longer clips are left out."""
    synthetic: int = 0
    """Utterances to synthesise by espeak-ng and flite."""
    kokoro: int = 0
    """Utterances to synthesise by Kokoro."""
    texts: dict[str, float] = field(default_factory=dict)
    """Probability weight of each text that is synthesised from, by the name of its file."""
    synthetic_digits: float = 0.06
    """Share of them that are digit strings."""
    bit_rate: int = 12_000
    """Bits a second of packed audio."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything about a run."""

    name: str
    seed: int
    vocabulary: int
    model: dict[str, Any]
    """See ``ModelConfig``; the vocabulary's size is filled in."""
    speech: SpeechConfig
    batch: BatchConfig
    augment: AugmentConfig
    losses: LossConfig
    optimiser: OptimiserConfig
    language: LanguageConfig = field(default_factory=LanguageConfig)


def build(kind: type[_T], data: Mapping[str, Any], where: str) -> _T:
    """Build a dataclass from a TOML table, strictly.

    Raises:
        ConfigError: for a key that is unknown.
    """
    hints = get_type_hints(kind)
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise ConfigError(f"{where}.{key}", value, f"known keys are {', '.join(sorted(known))}")
        hint = hints[key]
        if key == "only":
            value = {name: tuple(words) for name, words in value.items()}
        elif isinstance(value, Mapping) and isinstance(hint, type) and is_dataclass(hint):
            value = build(hint, value, f"{where}.{key}")
        elif isinstance(value, list):
            value = tuple(value)
        values[key] = value
    return kind(**values)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    known = {item.name for item in fields(Recipe)}
    for key in data.keys() - known:
        raise ConfigError(key, data[key], f"known keys are {', '.join(sorted(known))}")
    for key in ("name", "vocabulary", "model"):
        if key not in data:
            raise ConfigError(key, None, "a recipe must say it")
    speech = dict(data.get("speech", {}))
    rules = {
        name: build(HeldOut, rule, f"speech.held_out.{name}")
        for name, rule in speech.pop("held_out", {}).items()
    }
    manifests = {name: path.parent / file for name, file in speech.pop("manifests", {}).items()}
    given = {**speech, "held_out": rules, "manifests": manifests}
    return Recipe(
        name=data["name"],
        seed=data.get("seed", 0),
        vocabulary=data["vocabulary"],
        model=data["model"],
        speech=build(SpeechConfig, given, "speech"),
        batch=build(BatchConfig, data.get("batch", {}), "batch"),
        augment=build(AugmentConfig, data.get("augment", {}), "augment"),
        losses=build(LossConfig, data.get("losses", {}), "losses"),
        optimiser=build(OptimiserConfig, data.get("optimiser", {}), "optimiser"),
        language=build(LanguageConfig, data.get("language", {}), "language"),
    )


def with_scheme(recipe: Recipe, scheme: str | None) -> Recipe:
    """Return the recipe with another scheme of diffusion; as it is for none.

    Raises:
        ConfigError: there is no such scheme.
    """
    if scheme is None:
        return recipe
    if scheme not in SCHEMES:
        raise ConfigError("scheme", scheme, f"one of {', '.join(SCHEMES)}")
    sampler = {**recipe.model.get("sampler", {}), "scheme": scheme}
    return replace(recipe, model={**recipe.model, "sampler": sampler})


__all__ = ["OptimiserConfig", "Recipe", "SpeechConfig", "build", "read_recipe", "with_scheme"]
