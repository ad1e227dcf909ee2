"""A denoising step is DiffusionGemma's, and each row has its own noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.diffusion_gemma import generation_diffusion_gemma as upstream

from stream_server.recogniser.denoise import (
    MASK,
    Noise,
    SamplerConfig,
    accept,
    advance,
    draw_noise,
    random_tokens,
    reveal,
    temperatures,
    text_length,
)

CPU = torch.device("cpu")
CONFIG = SamplerConfig()
ALL = SamplerConfig(entropy_bound=1e9)
"""Accepts every position, so that the next canvas is what was sampled."""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def silent(rows: int, width: int, vocabulary: int) -> Noise:
    """No noise at all: what is drawn anew is the last token of the vocabulary."""
    return Noise(
        torch.zeros(rows, width, vocabulary),
        torch.full((rows, width), vocabulary - 1, dtype=torch.long),
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 48])
def test_the_schedule_is_that_of_transformers(steps: int) -> None:
    theirs = upstream.LinearTemperatureScheduleLogitsProcessor(CONFIG.t_min, CONFIG.t_max, steps)
    ones = torch.ones(1)
    # Upstream counts the steps that remain, this one included.
    expected = [1 / float(theirs(ones, ones, cur_step=left)) for left in range(steps, 0, -1)]
    ours = temperatures(list(range(steps)), [steps] * steps, CONFIG, CPU)
    torch.testing.assert_close(ours, torch.tensor(expected))
    assert float(ours[0]) == pytest.approx(CONFIG.t_max)
    assert float(ours[-1]) == pytest.approx(CONFIG.t_min + 0.4 / steps)


def test_each_row_is_at_its_own_place_in_its_own_schedule() -> None:
    heat = temperatures([0, 3, 7], [8, 4, 8], CONFIG, CPU)
    assert heat.tolist() == pytest.approx([0.8, 0.5, 0.45])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.integers(1, 20),
    st.floats(0.001, 20),
    st.floats(0.1, 20),
)
def test_positions_are_accepted_as_in_transformers(
    seed: int, rows: int, width: int, bound: float, sharpness: float
) -> None:
    logits = torch.randn(rows, width, 11, generator=generator(seed)) * sharpness
    sampler = upstream.EntropyBoundSampler(
        upstream.EntropyBoundSamplerConfig(entropy_bound=bound), width, 11, 8
    )
    canvas = torch.zeros(rows, width, dtype=torch.long)
    sampler.accept_canvas(canvas, canvas, logits, 1)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    everywhere = torch.ones(rows, width, dtype=torch.bool)
    assert torch.equal(accept(entropy, everywhere, bound), sampler.accepted_token_mask)


def test_padding_is_neither_accepted_nor_counted() -> None:
    entropy = torch.tensor([[0.3, 0.0, 0.2, 0.0], [0.3, 5.0, 0.2, 0.1]])
    valid = torch.tensor([[True, False, True, False], [True, True, True, True]])
    assert accept(entropy, valid, 0.15).tolist() == [
        [False, False, True, False],
        [False, False, True, True],
    ]
    assert accept(entropy, valid, 0.25).tolist() == [
        [True, False, True, False],
        [False, False, True, True],
    ]


def test_at_least_one_position_is_accepted_in_every_step() -> None:
    entropy = torch.rand(5, 7) * 10 + 5
    assert accept(entropy, torch.ones(5, 7, dtype=torch.bool), 0.1).sum(dim=1).tolist() == [1] * 5


def test_a_step_samples_keeps_and_draws_anew() -> None:
    sure, likely, open_ = [9.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.8, 0.9, 0.7]
    logits = torch.tensor([[open_, sure, likely], [likely, likely, sure]])
    noise = silent(2, 3, 3)
    result = advance(logits, torch.tensor([0.8, 0.8]), torch.tensor([3, 2]), noise, CONFIG)
    assert result.argmax.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert result.accepted.tolist() == [[False, True, True], [True, False, False]]
    assert result.canvas.tolist() == [[2, 0, 0], [0, 2, 2]]


def test_scores_are_scaled_for_the_entropy_and_for_the_next_step_only() -> None:
    logits = torch.randn(2, 5, 9) * 3
    heat = torch.tensor([0.8, 0.45])
    lengths = torch.tensor([5, 5])
    result = advance(logits, heat, lengths, silent(2, 5, 9), CONFIG)
    scaled = logits / heat[:, None, None]
    torch.testing.assert_close(result.conditioning, scaled)
    torch.testing.assert_close(
        result.entropy, torch.distributions.Categorical(logits=scaled).entropy()
    )
    torch.testing.assert_close(result.probability, logits.softmax(dim=-1).amax(dim=-1))
    assert torch.equal(result.argmax, logits.argmax(dim=-1))


def test_very_sure_scores_give_no_nan() -> None:
    logits = torch.full((1, 3, 5), -30.0)
    logits[..., 2] = 30.0
    result = advance(logits, torch.tensor([0.4]), torch.tensor([3]), silent(1, 3, 5), CONFIG)
    assert result.entropy.tolist() == [[0.0, 0.0, 0.0]]
    assert result.probability.tolist() == [[1.0, 1.0, 1.0]]
    assert result.accepted.all()


@pytest.mark.parametrize("temperature", [0.4, 0.8])
def test_tokens_are_sampled_as_often_as_they_are_likely(temperature: float) -> None:
    width, scores = 4000, torch.tensor([1.0, 0.2, -0.5, 0.0, -1.5])
    noise = draw_noise([generator(5)], [width], len(scores))
    logits = scores.expand(1, width, -1)
    result = advance(logits, torch.tensor([temperature]), torch.tensor([width]), noise, ALL)
    counts = torch.bincount(result.canvas[0], minlength=len(scores))
    expected = (scores / temperature).softmax(dim=0) * width
    chi_square = float(((counts - expected).square() / expected).sum())
    assert chi_square < 18.5, "of 4 degrees of freedom: less than 1 in 1000"


def chi_square_of_uniform(tokens: Tensor, vocabulary: int) -> float:
    expected = tokens.numel() / vocabulary
    counts = torch.bincount(tokens.flatten(), minlength=vocabulary)
    return float(((counts - expected).square() / expected).sum())


def test_new_tokens_are_uniform_over_the_vocabulary() -> None:
    assert chi_square_of_uniform(random_tokens(generator(7), 5000, 20), 20) < 43.8
    assert chi_square_of_uniform(draw_noise([generator(7)], [5000], 20).tokens, 20) < 43.8


def test_noise_is_finite_and_gumbel() -> None:
    gumbel = draw_noise([generator(1)], [500], 200).gumbel
    assert gumbel.isfinite().all()
    assert float(gumbel.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(gumbel.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_noise_can_be_repeated_and_is_a_row_s_own() -> None:
    alone = draw_noise([generator(1)], [6], 9)
    together = draw_noise([generator(2), generator(1), generator(3)], [6, 6, 6], 9)
    assert torch.equal(together.gumbel[1], alone.gumbel[0])
    assert torch.equal(together.tokens[1], alone.tokens[0])
    assert not torch.equal(together.gumbel[0], alone.gumbel[0])
    assert not torch.equal(together.tokens[0], together.tokens[2])


def test_noise_is_new_in_every_step() -> None:
    chance = generator(1)
    first, second = draw_noise([chance], [6], 9), draw_noise([chance], [6], 9)
    assert not torch.equal(first.gumbel, second.gumbel)
    assert not torch.equal(first.tokens, second.tokens)


def test_a_row_advances_as_if_it_were_alone() -> None:
    logits = torch.randn(3, 6, 9) * 4
    heat = torch.tensor([0.8, 0.6, 0.45])
    noise = draw_noise([generator(seed) for seed in range(3)], [6, 6, 6], 9)
    lengths = torch.tensor([6, 3, 5])
    together = advance(logits, heat, lengths, noise, CONFIG)
    for row, length in enumerate(lengths.tolist()):
        part = slice(row, row + 1)
        own = Noise(noise.gumbel[part, :length], noise.tokens[part, :length])
        alone = advance(logits[part, :length], heat[part], lengths[part], own, CONFIG)
        assert torch.equal(alone.canvas[0], together.canvas[row, :length])
        assert torch.equal(alone.accepted[0], together.accepted[row, :length])


def test_text_goes_up_to_the_first_end() -> None:
    assert text_length([5, 6, 1, 7, 1], {1}) == 2
    assert text_length([1, 6], {1}) == 0
    assert text_length([5, 6], {1}) == 2
    assert text_length([], {1}) == 0


# The absorbing scheme


def scores(*rows: dict[int, float], width: int = 4, vocabulary: int = 8) -> Tensor:
    """Scores of one canvas: at each place one token above all others, by so much."""
    logits = torch.zeros(1, width, vocabulary)
    for place, row in enumerate(rows):
        for token, value in row.items():
            logits[0, place, token] = value
    return logits


ONE = torch.ones(1)
WIDTH = torch.tensor([4])


def test_the_most_confident_masks_are_revealed_first() -> None:
    canvas = torch.full((1, 4), MASK)
    logits = scores({5: 2.0}, {6: 9.0}, {7: 4.0}, {4: 1.0})
    result = reveal(logits, canvas, ONE, WIDTH, left=torch.tensor([1]))
    assert result.canvas.tolist() == [[MASK, 6, 7, MASK]]
    assert result.argmax.tolist() == [[5, 6, 7, 4]]
    assert result.accepted.tolist() == [[False, True, True, False]]


def test_what_was_revealed_stays_whatever_is_predicted() -> None:
    canvas = torch.tensor([[1, MASK, 2, MASK]])
    logits = scores({5: 9.0}, {6: 9.0}, {7: 9.0}, {4: 3.0})
    result = reveal(logits, canvas, ONE, WIDTH, left=torch.tensor([1]))
    assert result.canvas.tolist() == [[1, 6, 2, MASK]]
    assert result.argmax.tolist() == [[1, 6, 2, 4]]
    assert result.entropy[0, 0] == result.entropy[0, 2] == 0
    assert result.probability[0, 0] < 0.01


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
def test_masks_go_evenly_and_none_is_left_at_the_end(steps: int) -> None:
    width = 13
    torch.manual_seed(steps)
    canvas = torch.full((1, width), MASK)
    masks = [width]
    for step in range(steps):
        logits = torch.randn(1, width, 8)
        logits[..., MASK] = 30.0  # is never predicted
        left = torch.tensor([steps - step - 1])
        before = canvas
        result = reveal(logits, canvas, ONE, torch.tensor([width]), left)
        canvas = result.canvas
        kept = before != MASK
        assert torch.equal(canvas[kept], before[kept])
        assert not (result.argmax == MASK).any()
        assert result.entropy.isfinite().all()
        masks.append(int((canvas == MASK).sum()))
    assert masks[-1] == 0
    gone = [one - two for one, two in zip(masks, masks[1:], strict=False)]
    assert max(gone) - min(gone) <= 1


def test_rows_have_their_own_lengths_and_schedules() -> None:
    canvas = torch.full((2, 4), MASK)
    logits = torch.cat([scores({5: 2.0}, {6: 9.0}), scores({5: 2.0}, {6: 9.0}, {7: 3.0}, {4: 9.0})])
    lengths, left = torch.tensor([2, 4]), torch.tensor([0, 3])
    result = reveal(logits, canvas, torch.ones(2), lengths, left)
    assert result.canvas[0, :2].tolist() == [5, 6]
    assert result.canvas[0, 2:].tolist() == [MASK, MASK], "behind the row's end"
    assert int((result.canvas[1] == MASK).sum()) == 3


def test_a_scheme_that_does_not_exist_is_refused() -> None:
    assert SamplerConfig(scheme="absorbing").is_absorbing
    assert not CONFIG.is_absorbing
    with pytest.raises(ValueError, match="uniform, absorbing"):
        SamplerConfig(scheme="gaussian")
