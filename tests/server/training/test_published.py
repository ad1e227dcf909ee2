"""The published recipe learns a handful of clips, and goes on where it stopped."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stream_server.recogniser.published import PublishedModel
from stream_server.training.augment import AugmentConfig
from stream_server.training.corpus import Batch, Corpus
from stream_server.training.pack import Packed
from stream_server.training.published import PublishedTrainer
from stream_server.training.published_run import published_config, rehearsal_parts
from stream_server.training.recipe import Recipe, read_recipe

CPU = torch.device("cpu")
QUIET = AugmentConfig(noise=0, babble=0, room=0, telephone=0, frequency_masks=0, time_masks=0)
LOSSES = {"loss", "diffusion", "right", "autoregressive", "ctc"}


@pytest.fixture
def recipe(published_recipe_file: Path) -> Recipe:
    return read_recipe(published_recipe_file)


@pytest.fixture
def make(clips: list[Packed]) -> Callable[[Recipe], tuple[PublishedTrainer, Corpus]]:
    """Builds a trainer with random frozen parts, and its corpus."""

    def build(recipe: Recipe) -> tuple[PublishedTrainer, Corpus]:
        parts = rehearsal_parts(recipe, clips, CPU)
        config = published_config(recipe, parts.encoder.hidden_size, parts.backbone.hidden_size)
        model = PublishedModel(config, parts.encoder, parts.backbone, parts.prompts)
        codec: Any = parts.tokenizer
        corpus = Corpus(clips, codec, recipe.speech.weights, recipe.batch, CPU)
        return PublishedTrainer(recipe, model, parts.tokenizer), corpus

    return build


def update(trainer: PublishedTrainer, batch: Batch, seed: int) -> dict[str, float]:
    """An update whose every random number comes from ``seed``."""
    torch.manual_seed(seed)
    trainer.chance.seed(seed)
    return {name: float(value.detach()) for name, value in trainer.update(batch).items()}


def test_a_handful_of_clips_is_learnt(
    recipe: Recipe, make: Callable[..., tuple[PublishedTrainer, Corpus]]
) -> None:
    trainer, corpus = make(replace(recipe, augment=QUIET))
    frozen = trainer.model.decoder.model.lm_head.weight.clone()
    batch = corpus.batch(random.Random(0))
    told = [update(trainer, batch, seed % 3) for seed in range(60)]
    assert set(told[0]) == LOSSES | {"norm"}
    assert all(math.isfinite(value) for each in told for value in each.values())
    assert told[-1]["ctc"] < told[0]["ctc"] / 4
    assert told[-1]["ctc"] < 3
    assert told[-1]["diffusion"] < told[0]["diffusion"]
    assert told[-1]["autoregressive"] < told[0]["autoregressive"]
    assert torch.equal(trainer.model.decoder.model.lm_head.weight, frozen)


def test_every_trained_weight_has_a_gradient(
    recipe: Recipe, make: Callable[..., tuple[PublishedTrainer, Corpus]]
) -> None:
    # LoRA's second half starts at zero, and lets nothing through to the first in the first update.
    trainer, corpus = make(recipe)
    batch = corpus.batch(random.Random(0))
    update(trainer, batch, 0)
    torch.autograd.backward(trainer.losses(batch)["loss"])
    without = [
        name
        for name, parameter in trainer.model.trained().items()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []
    trained = {id(parameter) for parameter in trainer.trained}
    assert all(p.grad is None for p in trainer.model.parameters() if id(p) not in trained)
    assert {parameter.dtype for parameter in trainer.trained} == {torch.float32}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_self_conditioning_is_used_in_its_share(
    share: float,
    recipe: Recipe,
    make: Callable[..., tuple[PublishedTrainer, Corpus]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer, corpus = make(replace(recipe, losses=replace(recipe.losses, conditioned=share)))
    given: list[Any] = []
    refine = trainer.model.decoder.refine

    def spy(canvas: Any, sizes: Any, cache: Any, soft: Any = None) -> Any:
        given.append(soft)
        return refine(canvas, sizes, cache, soft)

    monkeypatch.setattr(trainer.model.decoder, "refine", spy)
    trainer.losses(corpus.batch(random.Random(0)))
    assert [soft is not None for soft in given] == ([False, True] if share else [False])


def test_a_batch_of_nothing_is_trained_on(
    recipe: Recipe, make: Callable[..., tuple[PublishedTrainer, Corpus]]
) -> None:
    trainer, corpus = make(replace(recipe, batch=replace(recipe.batch, empty=1.0)))
    assert all(map(math.isfinite, update(trainer, corpus.batch(random.Random(0)), 1).values()))


def test_a_batch_that_is_not_finite_changes_nothing(
    recipe: Recipe, make: Callable[..., tuple[PublishedTrainer, Corpus]]
) -> None:
    trainer, corpus = make(recipe)
    before = [parameter.clone() for parameter in trainer.trained]
    batch = corpus.batch(random.Random(0))
    broken = replace(batch, pcm=torch.full_like(batch.pcm, math.nan))
    assert not math.isfinite(update(trainer, broken, 2)["norm"])
    assert all(map(torch.equal, before, trainer.trained))
    assert trainer.step == 1


def test_a_resumed_run_has_the_same_next_losses(
    recipe: Recipe, make: Callable[..., tuple[PublishedTrainer, Corpus]], tmp_path: Path
) -> None:
    first, corpus = make(recipe)
    batch = corpus.batch(random.Random(0))
    for seed in (1, 2):
        update(first, batch, seed)
    first.save(tmp_path / "state.pt")
    # What is frozen is not in it.
    assert (tmp_path / "state.pt").stat().st_size < 2_000_000
    second, _ = make(recipe)
    second.load(tmp_path / "state.pt")
    assert second.step == 2
    assert second.seconds > 0
    for seed in (3, 4):
        assert update(second, batch, seed) == update(first, batch, seed)


def test_a_run_reports_means_and_ends_with_its_recipe(
    recipe: Recipe, make: Callable[..., tuple[PublishedTrainer, Corpus]]
) -> None:
    trainer, corpus = make(replace(recipe, optimiser=replace(recipe.optimiser, steps=3)))
    told: list[dict[str, float]] = []
    trainer.run(corpus, 100, 1, told.append)
    assert trainer.step == 3
    assert trainer.done() == 1
    assert [each["step"] for each in told] == [1, 2, 3]
    assert set(told[0]) == LOSSES | {"norm", "step", "updates_per_second"}
    trainer.run(corpus, 100, 1, told.append)
    assert len(told) == 3
