"""The losses are those of a plain loop over rows and positions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.denoise import MASK
from stream_server.recogniser.interface import Utterance
from stream_server.recogniser.model import Encoded, TranscriptionModel
from stream_server.recogniser.recogniser import DiffusionRecogniser
from stream_server.recogniser.support import GuardConfig
from stream_server.recogniser.tokenizer import END, Tokenizer
from stream_server.recogniser.tokenizer import TEXT as TEXT_BEGINS
from stream_server.training import losses as losses_module
from stream_server.training.ctc import ctc_loss
from stream_server.training.loop import Trainer
from stream_server.training.losses import (
    LossConfig,
    MiddleCtc,
    carry,
    consistency_loss,
    corrupt,
    ctc_draft,
    diffusion_loss,
    teacher_forced,
)

CONFIG = LossConfig()
LANGUAGES = torch.tensor([6, 5, 6])
TEXT = torch.tensor([[20, 21, 22, 23], [24, 25, 0, 0], [0, 0, 0, 0]])
LENGTHS = torch.tensor([4, 2, 0])


@pytest.fixture
def model(trainer: Trainer) -> TranscriptionModel:
    return trainer.model.eval()


def hear(model: TranscriptionModel) -> Encoded:
    """Three rows of different length."""
    lengths = torch.tensor([16_000, 4_000, 9_000])
    pcm = torch.randn(3, 16_000) * 0.1 * (torch.arange(16_000) < lengths[:, None])
    return model.listen(pcm, lengths)


@pytest.mark.parametrize("layer", [0, -1])
def test_phones_are_read_off_a_layer_of_the_encoder(model: TranscriptionModel, layer: int) -> None:
    head = MiddleCtc(model.encoder, 5, layer)
    with pytest.raises(RuntimeError, match="has not run"):
        head()
    seen: list[Tensor] = []
    model.encoder.layers[layer].register_forward_hook(lambda *hook: seen.append(hook[2]))
    encoded = hear(model)
    logs = head()
    assert logs.shape == (3, encoded.states.shape[1], 5)
    torch.testing.assert_close(logs, head.linear(head.norm(seen[0])).log_softmax(dim=-1))
    with pytest.raises(RuntimeError, match="has not run"):
        head()  # what was heard is read once


def test_phones_are_scored_in_float32(model: TranscriptionModel) -> None:
    head = MiddleCtc(model.encoder, 5, -1).to(torch.bfloat16)
    states = torch.randn(2, 3, model.encoder.hidden_size, dtype=torch.bfloat16)
    head._tap._keep(head, (), states)
    logs = head()
    assert logs.dtype is torch.float32
    torch.testing.assert_close(logs.exp().sum(dim=-1), torch.ones(2, 3))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(1, 8),
    st.data(),
)
def test_the_draft_is_the_best_path_collapsed(
    paths: list[list[int]], width: int, data: st.DataObject
) -> None:
    counts = [data.draw(st.integers(0, 6)) for _ in paths]
    logs = functional.one_hot(torch.tensor(paths), 4).float()
    draft, lengths = ctc_draft(logs, torch.tensor(counts), width)
    assert draft.shape == (len(paths), width)
    for row, (path, count) in enumerate(zip(paths, counts, strict=True)):
        said = [token for token, _ in itertools.groupby(path[:count]) if token][:width]
        assert draft[row].tolist() == said + [0] * (width - len(said))
        assert int(lengths[row]) == len(said)


# Noise


def canvases(config: LossConfig, rows: int = 3000) -> Tensor:
    """Canvases from a truth of 5 and a draft of 7; everything else is noise."""
    truth = torch.full((rows, 20), 5)
    return corrupt(truth, torch.full_like(truth, 7), 100_000, config)


def test_the_shares_of_rows_are_as_configured() -> None:
    canvas = canvases(LossConfig(all_noise=0.3, draft=0.25))
    drafted = (canvas == 7).any(dim=1)
    assert not (drafted & (canvas == 5).any(dim=1)).any()
    assert float(drafted.float().mean()) == pytest.approx(0.25, abs=0.03)
    noise = (canvas != 7) & (canvas != 5)
    # All of the 0.3, and those of the others whose fraction happens to be near one.
    assert float(noise.all(dim=1).float().mean()) == pytest.approx(0.3 + 0.45 / 21, abs=0.03)
    assert float(noise[drafted].float().mean()) == pytest.approx(0.15, abs=0.02)
    assert float(noise[drafted].float().mean(dim=1).max()) < 0.75
    others = ~drafted & ~noise.all(dim=1)
    assert float(noise[others].float().mean()) == pytest.approx(0.48, abs=0.04)


def test_the_extremes_are_all_noise_or_all_draft() -> None:
    noise = canvases(LossConfig(all_noise=1.0, draft=0.0), rows=200)
    assert float(((noise == 5) | (noise == 7)).float().mean()) < 0.001
    drafted = canvases(LossConfig(all_noise=0.0, draft=1.0), rows=200)
    assert not (drafted == 5).any()
    assert (drafted == 7).any(dim=1).all()
    plain = canvases(LossConfig(all_noise=0.0, draft=0.0), rows=1000)
    assert not (plain == 7).any()
    assert float((plain == 5).float().mean()) == pytest.approx(0.5, abs=0.04)


def test_noise_is_uniform_over_the_vocabulary() -> None:
    truth = torch.zeros(500, 20, dtype=torch.long)
    torch.manual_seed(1)
    canvas = corrupt(truth, truth, 10, LossConfig(all_noise=1.0, draft=0.0))
    counts = torch.bincount(canvas.flatten(), minlength=10)
    assert float(((counts - 1000.0).square() / 1000).sum()) < 27.9, "1 in 1000 of 9 degrees"


def test_the_absorbing_scheme_masks_and_begins_from_no_draft() -> None:
    truth, draft = torch.full((1000, 20), 5), torch.full((1000, 20), 7)
    torch.manual_seed(1)
    canvas = corrupt(truth, draft, 10, LossConfig(), is_absorbing=True)
    assert set(canvas.unique().tolist()) == {5, MASK}
    masked = (canvas == MASK).float().mean(dim=1)
    assert float((masked == 1).float().mean()) >= 0.3
    # Three tenths are masks throughout, the others by half.
    assert float(masked.mean()) == pytest.approx(0.3 + 0.7 / 2, abs=0.04)


# Teacher forcing


@torch.no_grad()
def test_the_prompt_s_part_of_the_cache_is_that_of_the_prompt_alone(
    model: TranscriptionModel,
) -> None:
    encoded = hear(model)
    cache, _ = teacher_forced(model, encoded, LANGUAGES, TEXT, LENGTHS)
    alone = model.prefill(encoded, LANGUAGES)
    assert cache.lengths.tolist() == alone.lengths.tolist() == (encoded.counts + 3).tolist()
    assert cache.keys[0].shape == alone.keys[0].shape
    for row in range(3):
        ours, theirs = cache.row(row), alone.row(row)
        for one, two in zip(
            (*ours.keys, *ours.values), (*theirs.keys, *theirs.values), strict=True
        ):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_causal_loss_is_that_of_a_plain_loop(model: TranscriptionModel) -> None:
    encoded = hear(model)
    _, loss = teacher_forced(model, encoded, LANGUAGES, TEXT, LENGTHS)
    prompts, positions = model.prompt(encoded, LANGUAGES)
    each = []
    for row in range(3):
        text = TEXT[row, : LENGTHS[row]].tolist()
        prompt = prompts[row : row + 1, : positions[row]]
        for place, target in enumerate([*text, END]):
            said = model.decoder.embed(torch.tensor([text[:place]], dtype=torch.long))
            whole = torch.cat([prompt, said], dim=1)
            _, hidden = model.decoder.prefill(whole, torch.tensor([whole.shape[1]]))
            scores = model.decoder.head(hidden[0, -1])
            each.append(float(functional.cross_entropy(scores, torch.tensor(target))))
    assert len(each) == 4 + 2 + 0 + 3
    assert float(loss) == pytest.approx(sum(each) / len(each), abs=1e-5)


@torch.no_grad()
def test_what_is_read_in_service_is_the_causal_loss_of_each_token(
    model: TranscriptionModel,
) -> None:
    encoded = hear(model)
    cache, loss = teacher_forced(model, encoded, LANGUAGES, TEXT, LENGTHS)
    total = 0.0
    for row, length in enumerate(LENGTHS.tolist()):
        text = TEXT[row, :length].tolist()
        (read,) = model.decoder.read([text], cache.row(row), TEXT_BEGINS, END)
        total -= read
    count = int((LENGTHS + 1).sum())
    assert total == pytest.approx(float(loss) * count, rel=1e-4)


# Diffusion


def targets_of(width: int) -> Tensor:
    place = torch.arange(width)
    text = functional.pad(TEXT, (0, width))[:, :width]
    return torch.where(place < LENGTHS[:, None], text, END)


@torch.no_grad()
def test_the_diffusion_loss_is_that_of_a_plain_loop(model: TranscriptionModel) -> None:
    cache = model.prefill(hear(model), LANGUAGES)
    targets, draft = targets_of(8), torch.full((3, 8), 30)
    torch.manual_seed(5)
    loss, right = diffusion_loss(model, cache, targets, LENGTHS, draft, CONFIG, conditioned=False)
    torch.manual_seed(5)
    canvas = corrupt(targets, draft, model.decoder.vocabulary, CONFIG)
    total = weights = hits = spoken = 0.0
    for row, length in enumerate(LENGTHS.tolist()):
        part = slice(row, row + 1)
        own = cache.row(row)
        scores = model.decoder.denoise(canvas[part], torch.tensor([8]), own, None, None)[0]
        for place in range(8):
            weight = 1.0 if place <= length else CONFIG.filler
            target = targets[row, place]
            total += weight * float(functional.cross_entropy(scores[place], target))
            weights += weight
            hits += (place <= length) * float(scores[place].argmax() == target)
            spoken += place <= length
    assert float(loss) == pytest.approx(total / weights, abs=1e-5)
    assert float(right) == pytest.approx(hits / spoken)


@pytest.mark.parametrize("conditioned", [False, True])
def test_the_gradient_of_the_diffusion_loss_reaches_projector_and_encoder(
    model: TranscriptionModel, conditioned: bool
) -> None:
    cache, _ = teacher_forced(model, hear(model), LANGUAGES, TEXT, LENGTHS)
    draft = torch.full((3, 8), 30)
    loss, right = diffusion_loss(model, cache, targets_of(8), LENGTHS, draft, CONFIG, conditioned)
    loss.backward()
    assert loss.isfinite()
    assert 0 <= float(right) <= 1
    for part in (model.encoder, model.projector, model.decoder):
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert any(gradient.abs().max() > 0 for gradient in gradients)
        assert all(gradient.isfinite().all() for gradient in gradients)
    first = model.encoder.encoder.subsampling.layers[0].weight.grad
    assert first is not None
    assert first.abs().max() > 0
    conditioner = model.decoder.model.model.decoder.self_conditioning.down_proj.weight.grad
    assert conditioner is not None
    assert bool(conditioner.abs().max() > 0) is conditioned


def test_every_loss_has_its_gradient(model: TranscriptionModel) -> None:
    encoded = hear(model)
    _, causal = teacher_forced(model, encoded, LANGUAGES, TEXT, LENGTHS)
    parts = model.config.ctc_parts
    ctc = ctc_loss(encoded.ctc, encoded.counts * parts, TEXT, LENGTHS)
    for loss in (causal, ctc):
        model.zero_grad()
        loss.backward(retain_graph=True)
        gradient = model.projector.linear.weight.grad
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


@torch.no_grad()
def test_filler_weighs_less_than_text(model: TranscriptionModel) -> None:
    cache = model.prefill(hear(model), LANGUAGES)
    draft = torch.full((3, 8), 30)
    losses = []
    for filler in (0.0, 0.1, 1.0):
        torch.manual_seed(1)
        config = replace(CONFIG, filler=filler)
        loss, _ = diffusion_loss(model, cache, targets_of(8), LENGTHS, draft, config, False)
        losses.append(float(loss))
    assert len(set(losses)) == 3
    assert isinstance(cache, PromptCache)


@pytest.mark.parametrize("conditioned", [False, True])
def test_the_absorbing_scheme_learns_what_is_masked(
    model: TranscriptionModel, conditioned: bool
) -> None:
    sampler = replace(model.config.sampler, scheme="absorbing")
    model.config = replace(model.config, sampler=sampler)
    targets, draft = targets_of(8), torch.full((3, 8), 30)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for seed in range(40):
        torch.manual_seed(seed)
        cache, _ = teacher_forced(model, hear(model), LANGUAGES, TEXT, LENGTHS)
        loss, _ = diffusion_loss(model, cache, targets, LENGTHS, draft, CONFIG, conditioned)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_a_network_of_the_absorbing_scheme_writes_what_it_learnt(
    model: TranscriptionModel, tokenizer: Tokenizer
) -> None:
    torch.manual_seed(5)
    sampler = replace(model.config.sampler, scheme="absorbing")
    model.config = replace(model.config, sampler=sampler, guard=GuardConfig(0, 0))
    pcm = 0.3 * torch.sin(torch.arange(12_000) * torch.tensor([[0.1], [0.9]]))
    text, lengths = TEXT[:2], LENGTHS[:2]
    targets = targets_of(8)[:2]
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(250):
        encoded = model.listen(pcm, torch.tensor([12_000, 12_000]))
        cache, causal = teacher_forced(model, encoded, LANGUAGES[[0, 0]], text, lengths)
        loss, _ = diffusion_loss(model, cache, targets, lengths, targets, CONFIG, False)
        optimiser.zero_grad()
        (loss + causal).backward()
        optimiser.step()
    recogniser = DiffusionRecogniser(model, tokenizer, torch.device("cpu"), 8)
    rows = recogniser.start([Utterance(row.numpy(), 3, "en") for row in pcm])
    for _ in range(3):
        heard = recogniser.step(rows)
    expected = [row[:length].tolist() for row, length in zip(text, lengths, strict=True)]
    assert [list(each.tokens) for each in heard] == expected


@torch.no_grad()
def test_a_canvas_without_a_mask_has_nothing_to_learn(
    model: TranscriptionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = replace(model.config.sampler, scheme="absorbing")
    model.config = replace(model.config, sampler=sampler)
    monkeypatch.setattr(losses_module, "corrupt", lambda targets, *_: targets)
    cache = model.prefill(hear(model), LANGUAGES)
    targets = targets_of(8)
    loss, _ = diffusion_loss(model, cache, targets, LENGTHS, targets, CONFIG, conditioned=False)
    assert float(loss) == 0


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_hearings_are_as_far_apart_as_both_divergences(seed: int) -> None:
    """Over the frames of each row, a text token; each hearing moves towards the other."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(6, 5, 7, generator=generator, requires_grad=True)
    logs = scores.log_softmax(dim=-1)
    counts, lengths = torch.tensor([5, 3, 1] * 2), torch.tensor([2, 1, 0] * 2)
    loss = consistency_loss(logs, counts, lengths)
    one, other = logs.detach().chunk(2)
    expected = 0.0
    for row, count in enumerate((5, 3, 1)):
        for frame in range(count):
            a, b = one[row, frame], other[row, frame]
            expected += float((b.exp() * (b - a)).sum() + (a.exp() * (a - b)).sum())
    assert float(loss.detach()) == pytest.approx(expected / 6, rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert not gradient[1, 3:].any(), "what lies behind a row's frames counts for nothing"
    torch.testing.assert_close(gradient[0] * 6, one[0].exp() - other[0].exp())


def test_equal_hearings_are_not_apart() -> None:
    logs = torch.randn(2, 5, 7).log_softmax(dim=-1).repeat(2, 1, 1)
    loss = consistency_loss(logs, torch.full((4,), 5), torch.full((4,), 2))
    assert float(loss) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_gradient_is_carried_on(share: float) -> None:
    made = torch.randn(3, 4, requires_grad=True)
    seen = carry(made, share)
    torch.testing.assert_close(seen, made)
    (seen * 2).sum().backward()
    if share:
        assert made.grad is not None
        torch.testing.assert_close(made.grad, torch.full((3, 4), 2 * share))
    else:
        assert made.grad is None or not made.grad.any()
