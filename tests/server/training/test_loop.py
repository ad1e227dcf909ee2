"""Training goes on where it stopped, and keeps each weight once."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stream_server.recogniser.checkpoint import load_model, save_checkpoint
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.augment import AugmentConfig
from stream_server.training.corpus import Batch, Corpus, Layout
from stream_server.training.loop import Trainer, describe, learning_rate, log_line, model_config
from stream_server.training.losses import Depth
from stream_server.training.recipe import OptimiserConfig, Recipe

LOSSES = {"loss", "diffusion", "right", "autoregressive", "ctc", "middle_ctc"}
MakeCorpus = Callable[..., Corpus]
MakeTrainer = Callable[[Recipe], Trainer]


Drawn = tuple[Layout, Batch]


def draw(corpus: Corpus, seed: int = 0) -> Drawn:
    layout = corpus.draw(random.Random(seed), 0)
    return layout, corpus.lay_out(layout)


@pytest.fixture
def drawn(make_corpus: MakeCorpus) -> Drawn:
    return draw(make_corpus(empty=0.3, durations=(1.0,)))


def update(trainer: Trainer, drawn: Drawn, seed: int) -> dict[str, float]:
    """An update whose every random number comes from ``seed``."""
    torch.manual_seed(seed)
    trainer.chance.seed(seed)
    return {name: float(value.detach()) for name, value in trainer.update(*drawn).items()}


def test_a_recipe_gives_the_network_its_defaults_and_its_name(recipe: Recipe) -> None:
    config = model_config(recipe)
    assert config.name == "toy"
    assert config.decoder["vocab_size"] == 32
    assert config.canvas.buckets == (8, 16)
    assert config.canvas.margin == 4
    assert config.features.mel_bins == 40
    assert config.features.level == "relative"
    assert config.ctc_parts == 4
    assert describe(recipe)["model"]["experts"] == "dense"


@given(st.integers(0, 3000), st.floats(0, 1))
def test_the_rate_rises_and_falls_between_its_bounds(step: int, done: float) -> None:
    config = OptimiserConfig(learning_rate=1e-3, final_rate=1e-5, warmup=100)
    rate = learning_rate(step, done, config)
    assert 0 < rate <= 1e-3
    if step < 100:
        assert rate == pytest.approx(1e-3 * (step + 1) / 100)
    else:
        assert rate >= 1e-5
        assert rate >= learning_rate(step, min(1.0, done + 0.1), config)


def test_the_rate_ends_at_its_final_value() -> None:
    config = OptimiserConfig(learning_rate=1e-3, final_rate=1e-5, warmup=100)
    assert learning_rate(99, 0.0, config) == learning_rate(100, 0.0, config) == 1e-3
    assert learning_rate(100, 0.5, config) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(100, 1.0, config) == pytest.approx(1e-5)


def test_updates_lower_the_loss_of_the_same_batch(
    recipe: Recipe, make_trainer: MakeTrainer, drawn: Drawn
) -> None:
    quiet = AugmentConfig(noise=0, babble=0, room=0, telephone=0, frequency_masks=0, time_masks=0)
    trainer = make_trainer(replace(recipe, augment=quiet))
    losses = [update(trainer, drawn, seed=1) for _ in range(6)]
    assert set(losses[0]) == LOSSES | {"norm"}
    assert all(math.isfinite(value) for each in losses for value in each.values())
    assert trainer.step == 6
    totals = [each["loss"] for each in losses]
    assert totals[-1] < totals[0] - 0.5
    assert all(0 <= each["right"] <= 1 for each in losses)


def test_the_total_is_the_weighted_sum(
    recipe: Recipe, make_trainer: MakeTrainer, drawn: Drawn
) -> None:
    losses = replace(recipe.losses, diffusion=1.0, autoregressive=2.0, ctc=3.0, middle_ctc=4.0)
    trainer = make_trainer(replace(recipe, losses=losses))
    values = {
        name: float(value.detach())
        for name, value in trainer.losses(drawn[1], Depth.DENOISING).items()
    }
    assert set(values) == LOSSES
    names = ("diffusion", "autoregressive", "ctc", "middle_ctc")
    expected = sum(weight * values[name] for weight, name in zip((1, 2, 3, 4), names, strict=True))
    assert values["loss"] == pytest.approx(expected, rel=1e-5)


def test_some_batches_stop_at_what_is_heard(
    recipe: Recipe, make_trainer: MakeTrainer, drawn: Drawn
) -> None:
    """Then the decoder has no gradient, and what is reported of it is of the other batches."""
    trainer = make_trainer(replace(recipe, losses=replace(recipe.losses, decoded=0.5)))
    drawn_depths = [trainer._draw_depth() for _ in range(400)]
    assert 160 < drawn_depths.count(Depth.HEARING) < 240
    assert 60 < drawn_depths.count(Depth.CONDITIONED) < 140
    losses = trainer.losses(drawn[1], Depth.HEARING)
    assert set(losses) == {"loss", "ctc", "middle_ctc"}
    torch.autograd.backward(losses["loss"])
    layers = trainer.model.decoder.named_parameters()
    assert not any(p.grad.any() for name, p in layers if "layers" in name and p.grad is not None)


def test_the_encoder_can_be_spared_what_the_decoder_wants(
    recipe: Recipe, make_trainer: MakeTrainer, drawn: Drawn
) -> None:
    alone = replace(recipe.losses, ctc=0.0, middle_ctc=0.0, carried=0.0)
    trainer = make_trainer(replace(recipe, losses=alone))
    torch.autograd.backward(trainer.losses(drawn[1], Depth.DENOISING)["loss"])

    def is_moved(module: nn.Module) -> bool:
        return any(bool(p.grad.any()) for p in module.parameters() if p.grad is not None)

    assert is_moved(trainer.model.decoder)
    assert not is_moved(trainer.model.projector)
    assert not is_moved(trainer.model.encoder)


def test_means_are_over_the_updates_that_have_a_loss(
    recipe: Recipe, make_trainer: MakeTrainer, make_corpus: MakeCorpus
) -> None:
    longer = replace(recipe, optimiser=replace(recipe.optimiser, steps=6))
    trainer = make_trainer(replace(longer, losses=replace(recipe.losses, decoded=0.5)))
    told: list[Mapping[str, float | str]] = []
    trainer.run(make_corpus(), 6, 6, told.append)
    (means,) = told
    assert set(means) >= LOSSES
    assert float(means["diffusion"]) > 1.5, "not diluted by the updates without it"


def test_two_hearings_are_to_agree(recipe: Recipe, make_trainer: MakeTrainer, drawn: Drawn) -> None:
    quiet = AugmentConfig(noise=0, babble=0, room=0, telephone=0, frequency_masks=0, time_masks=0)
    calm = replace(recipe, losses=replace(recipe.losses, consistency=0.5), augment=quiet)
    trainer = make_trainer(calm)
    trainer.trained.train()
    values = trainer.losses(drawn[1], Depth.DENOISING)
    assert set(values) == LOSSES | {"consistency"}
    weights = calm.losses
    expected = sum(
        getattr(weights, name) * float(value.detach())
        for name, value in values.items()
        if name not in ("loss", "right")
    )
    assert float(values["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    apart = []
    for _ in range(12):
        update(trainer, drawn, 3)
        apart.append(float(trainer.losses(drawn[1], Depth.HEARING)["consistency"].detach()))
    assert apart[-1] > 0
    assert all(math.isfinite(each) for each in apart)


def test_a_batch_of_nothing_is_trained_on(trainer: Trainer, make_corpus: MakeCorpus) -> None:
    silence = draw(make_corpus(empty=1.0, durations=(1.0,)))
    assert all(math.isfinite(value) for value in update(trainer, silence, 1).values())


def test_a_text_longer_than_the_largest_canvas_is_trained_on(
    trainer: Trainer, drawn: Drawn
) -> None:
    layout, batch = drawn
    text = torch.randint(20, 32, (len(batch.pcm), 30))
    long = replace(batch, text=text, text_lengths=torch.full_like(batch.text_lengths, 30))
    assert all(math.isfinite(value) for value in update(trainer, (layout, long), 1).values())


def test_a_batch_that_is_not_finite_changes_nothing(trainer: Trainer, drawn: Drawn) -> None:
    update(trainer, drawn, 1)
    before = {name: tensor.clone() for name, tensor in trainer.trained.named_parameters()}
    layout, batch = drawn
    broken = replace(batch, pcm=torch.full_like(batch.pcm, math.nan))
    assert not math.isfinite(update(trainer, (layout, broken), 2)["norm"])
    for name, parameter in trainer.trained.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert trainer.step == 2
    assert math.isfinite(update(trainer, drawn, 3)["loss"])


def test_a_resumed_run_has_the_same_next_loss(
    recipe: Recipe, make_trainer: MakeTrainer, drawn: Drawn, tmp_path: Path
) -> None:
    first = make_trainer(recipe)
    for seed in (1, 2):
        update(first, drawn, seed)
    first.save(tmp_path / "state.pt")
    assert [path.name for path in tmp_path.glob("state*")] == ["state.pt"]
    second = make_trainer(replace(recipe, seed=99))
    second.load(tmp_path / "state.pt")
    assert second.step == 2
    assert second.seconds > 0
    for seed in (3, 4):
        assert update(second, drawn, seed) == update(first, drawn, seed)
    for name, tensor in first.averaged().items():
        assert torch.equal(tensor, second.averaged()[name]), name


def test_a_resumed_run_does_not_draw_the_first_batches_again(
    recipe: Recipe, make_trainer: MakeTrainer, drawn: Drawn, tmp_path: Path
) -> None:
    trainer = make_trainer(recipe)
    first = random.Random(recipe.seed).random()
    update(trainer, drawn, 1)
    trainer.save(tmp_path / "state.pt")
    trainer.load(tmp_path / "state.pt")
    assert trainer.chance.random() != first


def test_the_average_has_every_parameter_exactly_once(trainer: Trainer, drawn: Drawn) -> None:
    update(trainer, drawn, 1)
    state = trainer.model.state_dict()
    averaged = trainer.averaged()
    assert set(averaged) <= set(state)
    places = [state[name].data_ptr() for name in averaged]
    assert len(places) == len(set(places))
    floats = {tensor.data_ptr() for tensor in state.values() if tensor.is_floating_point()}
    assert set(places) == floats
    assert {parameter.data_ptr() for parameter in trainer.model.parameters()} <= set(places)
    assert sum("running_var" in name for name in averaged) == 2


def test_the_average_can_be_served(
    trainer: Trainer, drawn: Drawn, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    update(trainer, drawn, 1)
    averaged = trainer.averaged()
    save_checkpoint(tmp_path, trainer.model.config, averaged, tokenizer)
    model, _ = load_model(tmp_path)
    state = model.state_dict()
    for name, tensor in averaged.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-4, rtol=1e-3)


def test_the_average_follows_the_weights(
    recipe: Recipe, make_trainer: MakeTrainer, drawn: Drawn
) -> None:
    trainer = make_trainer(recipe)
    name = "projector.linear.weight"
    start = trainer.averaged()[name].clone()
    update(trainer, drawn, 1)
    live = trainer.model.state_dict()[name]
    torch.testing.assert_close(trainer.averaged()[name], start * 0.1 + live * 0.9)
    steady = replace(recipe, optimiser=replace(recipe.optimiser, average=0.0))
    trainer = make_trainer(steady)
    update(trainer, drawn, 1)
    torch.testing.assert_close(trainer.averaged()[name], trainer.model.state_dict()[name])


def test_another_run_s_weights_are_begun_from(
    recipe: Recipe, make_trainer: MakeTrainer, drawn: Drawn
) -> None:
    first = make_trainer(recipe)
    update(first, drawn, 1)
    weights = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    second = make_trainer(replace(recipe, seed=7))
    second.begin_from(weights)
    assert second.step == 0
    for name, tensor in second.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for name, tensor in second.averaged().items():
        assert torch.equal(tensor, weights[name]), name
    update(second, drawn, 1)
    assert not torch.equal(second.model.projector.linear.weight, weights["projector.linear.weight"])


def test_a_run_reports_means_and_ends_with_its_recipe(
    recipe: Recipe, make_trainer: MakeTrainer, make_corpus: MakeCorpus
) -> None:
    five = replace(recipe, optimiser=replace(recipe.optimiser, steps=5))
    trainer = make_trainer(five)
    reports: list[dict[str, float]] = []
    corpus = make_corpus(seconds=2.0, durations=(1.0,))
    assert trainer.done() < 1
    trainer.run(corpus, 100, 2, reports.append)
    assert trainer.step == 5
    assert trainer.done() == 1.0
    assert [report["step"] for report in reports] == [2, 4]
    assert set(reports[0]) == LOSSES | {"norm", "step", "updates_per_second"}
    trainer.run(corpus, 100, 1, reports.append)
    assert trainer.step == 5
    assert len(reports) == 2


def test_a_run_ends_with_its_time(trainer: Trainer, make_corpus: MakeCorpus) -> None:
    trainer.seconds, trainer.budget = 3600.0, 3599.0
    assert trainer.done() == 1.0
    trainer.run(make_corpus(), 100, 1, lambda _: None)
    assert trainer.step == 0


def test_the_log_is_lines_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = log_line(tmp_path / "log.jsonl")
    report({"step": 1, "loss": 2.5})
    report({"step": 2, "loss": 2.0})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [2.5, 2.0]
    assert capsys.readouterr().out.splitlines() == lines
