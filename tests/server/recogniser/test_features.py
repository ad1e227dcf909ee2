"""Features are Whisper's where they claim to be, and a row's own whatever lies beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from stream_server.recogniser.features import FFT, HOP, RATE, FeatureConfig, LogMel, mel_filters

RELATIVE = FeatureConfig()
WHISPER = FeatureConfig(level="absolute", fixed_samples=480_000)
FREE_ABSOLUTE = FeatureConfig(level="absolute")


def sound(*lengths: int) -> tuple[Tensor, Tensor]:
    """Rows of noise that grows and fades, zero behind their ends."""
    chance = torch.Generator().manual_seed(3)
    pcm = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        swell = torch.sin(torch.arange(length) / 4000.0 + row).square()
        pcm[row, :length] = torch.randn(length, generator=chance) * 0.2 * swell
    return pcm, torch.tensor(lengths)


def test_absolute_features_of_thirty_seconds_are_those_of_transformers() -> None:
    pcm, lengths = sound(13_777, 50_000)
    ours, frames = LogMel(WHISPER)(pcm, lengths)
    theirs = WhisperFeatureExtractor()(
        [row[:length].numpy() for row, length in zip(pcm, lengths, strict=True)],
        sampling_rate=RATE,
        return_tensors="pt",
    ).input_features
    assert frames.tolist() == [3000, 3000]
    torch.testing.assert_close(ours, theirs.transpose(1, 2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bins", [40, 80, 128])
def test_the_filters_are_those_of_transformers(bins: int) -> None:
    theirs = mel_filter_bank(
        num_frequency_bins=FFT // 2 + 1,
        num_mel_filters=bins,
        min_frequency=0.0,
        max_frequency=RATE / 2,
        sampling_rate=RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    torch.testing.assert_close(mel_filters(bins).double(), torch.from_numpy(theirs).double())


def test_longer_audio_is_cut_to_the_fixed_length() -> None:
    pcm, lengths = sound(3000)
    log_mel = LogMel(FeatureConfig(level="absolute", fixed_samples=1600))
    features, frames = log_mel(pcm, lengths)
    again, _ = log_mel(pcm[:, :1600], torch.tensor([1600]))
    assert frames.tolist() == [10]
    assert torch.equal(features, again)


@pytest.mark.parametrize("gain", [0.03, 0.3, 2.5])
def test_the_relative_level_does_not_depend_on_the_gain(gain: float) -> None:
    pcm, lengths = sound(12_000, 12_000)
    pcm += torch.randn_like(pcm) * 1e-2
    features, _ = LogMel(RELATIVE)(pcm, lengths)
    other, _ = LogMel(RELATIVE)(pcm * gain, lengths)
    torch.testing.assert_close(other, features, atol=1e-4, rtol=0)
    absolute, _ = LogMel(FREE_ABSOLUTE)(pcm * gain, lengths)
    assert (absolute - LogMel(FREE_ABSOLUTE)(pcm, lengths)[0]).abs().max() > 0.1


@pytest.mark.xfail(
    strict=True, reason="the floor of 1e-10 is absolute: under quiet sound silence rises above -1"
)
def test_digital_silence_is_as_far_below_quiet_sound_as_below_loud() -> None:
    pcm, lengths = sound(12_000)
    pcm[:, :4000] = 0
    features, _ = LogMel(RELATIVE)(pcm * 0.03, lengths)
    assert features[0, :20].max() == -1.0


def test_the_loudest_bin_of_each_row_is_one_and_the_quietest_is_two_lower_at_most() -> None:
    pcm, lengths = sound(12_000, 8_000)
    pcm[1] *= 0.1
    features, _ = LogMel(RELATIVE)(pcm, lengths)
    assert features.amax(dim=(1, 2)).tolist() == [1.0, 1.0]
    assert features.min() >= -1.0


@pytest.mark.parametrize(
    "config",
    [
        RELATIVE,
        WHISPER,
        pytest.param(
            FREE_ABSOLUTE,
            marks=pytest.mark.xfail(
                strict=True,
                reason="the end of the longest row is reflected, that of a shorter one is not",
            ),
        ),
    ],
)
def test_a_row_does_not_depend_on_the_length_of_its_neighbours(config: FeatureConfig) -> None:
    lengths = (8_000, 16_001, 4_999)
    pcm, _ = sound(*lengths)
    together, frames = LogMel(config)(pcm, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone, count = LogMel(config)(pcm[row : row + 1, :length], torch.tensor([length]))
        assert count.tolist() == frames[row : row + 1].tolist()
        torch.testing.assert_close(together[row, : int(count)], alone[0], atol=1e-5, rtol=0)


def test_a_frame_is_ten_milliseconds_and_nothing_lies_behind_the_last() -> None:
    pcm, lengths = sound(16_000, 15_999, HOP, 1)
    features, frames = LogMel(RELATIVE)(pcm, lengths)
    assert features.shape == (4, 100, 80)
    assert frames.tolist() == [100, 99, 1, 1]
    for row, count in enumerate(frames.tolist()):
        assert not features[row, count:].any()
        assert features[row, :count].any()


def test_silence_has_features() -> None:
    for config in (RELATIVE, FREE_ABSOLUTE):
        features, _ = LogMel(config)(torch.zeros(2, 4000), torch.tensor([4000, 2000]))
        assert features.isfinite().all()


def test_nothing_of_it_is_stored_in_a_checkpoint() -> None:
    assert LogMel(RELATIVE).state_dict() == {}
