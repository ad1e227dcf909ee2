"""Perturbed audio is still audio: bounded, finite, and silent where there is none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stream_server.training.augment import (
    AugmentConfig,
    mask_features,
    perturb,
    stretch_features,
)

NOTHING = AugmentConfig(noise=0, babble=0, room=0, telephone=0, frequency_masks=0, time_masks=0)
EVERYTHING = AugmentConfig(noise=1, babble=1, room=1, telephone=1, microphone=1)


def tones(*lengths: int) -> tuple[Tensor, Tensor]:
    """Rows of tones, zero behind their ends."""
    width = max(lengths)
    counts = torch.tensor(lengths)
    t = torch.arange(width) / 16_000
    pcm = 0.3 * torch.sin(2 * torch.pi * (300 + 200 * torch.arange(len(lengths))[:, None]) * t)
    return pcm * (torch.arange(width) < counts[:, None]), counts


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(0, 9000), min_size=1, max_size=4),
    silent=st.booleans(),
    config=st.sampled_from([NOTHING, AugmentConfig(), EVERYTHING]),
)
def test_nothing_is_nan_or_loud_or_behind_the_end(
    seed: int, lengths: list[int], silent: bool, config: AugmentConfig
) -> None:
    lengths[0] = max(2, lengths[0])
    pcm, counts = tones(*lengths)
    if silent:
        pcm[0] = 0
    torch.manual_seed(seed)
    out = perturb(pcm, counts, config)
    assert out.shape == pcm.shape
    assert out.isfinite().all()
    assert out.abs().max() <= 1
    for row, length in enumerate(lengths):
        assert not out[row, length:].any()


def test_without_anything_only_the_level_changes() -> None:
    pcm, lengths = tones(8000, 6000)
    out = perturb(pcm, lengths, NOTHING)
    for row, length in enumerate(lengths.tolist()):
        gain = float((out[row] * pcm[row]).sum() / pcm[row].square().sum())
        assert 10**-0.9 <= gain <= 10**0.3
        torch.testing.assert_close(out[row, :length], pcm[row, :length] * gain, atol=3e-4, rtol=0)


@pytest.mark.parametrize("snr", [5.0, 25.0])
def test_noise_is_as_loud_as_asked(snr: float) -> None:
    pcm, lengths = tones(*[16_000] * 8)
    config = AugmentConfig(noise=1, snr=(snr, snr), babble=0, room=0, telephone=0)
    out = perturb(pcm * 0.3, lengths, config)
    for row in range(8):
        gain = (out[row] * pcm[row]).sum() / pcm[row].square().sum()
        rest = out[row] - gain * pcm[row]
        ratio = 10 * torch.log10((gain * pcm[row]).square().sum() / rest.square().sum())
        assert float(ratio) == pytest.approx(snr, abs=1.5)


def test_the_telephone_cuts_high_tones_off() -> None:
    t = torch.arange(16_000) / 16_000
    low, high = torch.sin(2 * torch.pi * 1000 * t), torch.sin(2 * torch.pi * 6000 * t)
    pcm = 0.1 * (low + high).expand(4, -1)
    lengths = torch.full((4,), 16_000)
    only = AugmentConfig(noise=0, babble=0, room=0, telephone=1)
    spectrum = torch.fft.rfft(perturb(pcm, lengths, only)).abs()
    assert (spectrum[:, 6000] < 0.01 * spectrum[:, 1000]).all()
    spectrum = torch.fft.rfft(perturb(pcm, lengths, NOTHING)).abs()
    assert (spectrum[:, 6000] > 0.9 * spectrum[:, 1000]).all()


def test_microphones_change_how_loud_frequencies_are_and_no_more_than_asked() -> None:
    t = torch.arange(16_000) / 16_000
    pitches = torch.tensor([120, 500, 1000, 2000, 4000, 7000])
    pcm = 0.03 * torch.sin(2 * torch.pi * pitches[:, None] * t).sum(0).expand(16, -1)
    lengths = torch.full((16,), 16_000)
    only = AugmentConfig(noise=0, babble=0, room=0, telephone=0, microphone=1, microphone_gain=6.0)

    def levels(config: AugmentConfig) -> Tensor:
        """Decibels of the tones, the mean of each row left out."""
        heard = torch.fft.rfft(perturb(pcm, lengths, config)).abs()[:, pitches]
        decibels = 20 * heard.log10()
        return decibels - decibels.mean(1, keepdim=True)

    changed = levels(only) - levels(NOTHING)
    assert changed.std(0).min() > 1.0, "every frequency, another way in every row"
    assert changed.abs().max() < 12.0, "6 dB either way, around a mean of at most 6"
    assert levels(NOTHING).abs().max() < 0.5


def test_a_room_goes_on_after_the_sound() -> None:
    pcm = torch.zeros(4, 8000)
    pcm[:, :100] = torch.randn(4, 100) * 0.3
    lengths = torch.full((4,), 8000)
    dry = perturb(pcm, lengths, NOTHING)
    wet = perturb(pcm, lengths, AugmentConfig(noise=0, babble=0, room=1, telephone=0))
    assert (wet[:, 200:1000].square().sum(1) > 20 * dry[:, 200:1000].square().sum(1)).all()


def test_babble_is_another_row_and_not_behind_silence() -> None:
    pcm, lengths = tones(8000, 8000, 8000)
    pcm[1] = 0
    only = AugmentConfig(noise=0, babble=1, room=0, telephone=0)
    out = perturb(pcm, lengths, only)
    assert out[1].abs().max() < 1e-3
    spectrum = torch.fft.rfft(out[0]).abs()
    assert spectrum[350] > 0.02 * spectrum[150], "700 Hz of the third row behind 300 Hz"


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    frames=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    bins=st.sampled_from([10, 80]),
)
def test_features_are_masked_in_stripes_and_otherwise_untouched(
    seed: int, frames: list[int], bins: int
) -> None:
    counts = torch.tensor(frames)
    features = torch.ones(len(frames), max(frames), bins)
    features *= (torch.arange(max(frames)) < counts[:, None])[..., None]
    config = AugmentConfig(frequency_masks=1, frequency_width=8, time_masks=2, time_share=0.1)
    torch.manual_seed(seed)
    masked = mask_features(features, counts, config)
    assert ((masked == features) | (masked == 0)).all()
    for row, count in enumerate(frames):
        kept = masked[row, :count].bool()
        gone_frames, gone_bins = ~kept.any(dim=1), ~kept.any(dim=0)
        if gone_frames.all() or gone_bins.all():
            continue
        assert torch.equal(kept, ~(gone_frames[:, None] | gone_bins))
        assert int(gone_bins.sum()) <= 8
        assert int(gone_frames.sum()) <= 2 * (0.1 * count + 1)


def test_no_masks_mask_nothing() -> None:
    features = torch.randn(2, 30, 80)
    assert torch.equal(mask_features(features, torch.tensor([30, 20]), NOTHING), features)


def test_masks_differ_between_rows() -> None:
    masked = mask_features(torch.ones(8, 50, 80), torch.full((8,), 50), AugmentConfig())
    assert len({tuple(row.flatten().tolist()) for row in masked}) == 8


def test_frequencies_are_stretched_by_one_factor_a_row() -> None:
    ramp = torch.arange(40.0).expand(200, 5, 40)
    config = AugmentConfig(tract=0.5, tract_range=0.1)
    stretched = stretch_features(ramp, config)
    assert stretched.shape == ramp.shape
    factors = stretched[:, 0, 1]
    expected = (torch.arange(40) * factors[:, None]).clamp(max=39)
    torch.testing.assert_close(stretched, expected[:, None].expand_as(stretched))
    assert 0.9 <= factors.min() < 0.93
    assert 1.07 < factors.max() <= 1.1
    assert 0.35 < float((factors != 1).float().mean()) < 0.65


def test_nothing_is_stretched_where_nothing_is_asked_for() -> None:
    features = torch.randn(3, 20, 40)
    assert torch.equal(stretch_features(features, AugmentConfig(tract=0)), features)
