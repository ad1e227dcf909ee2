"""Perturbation on the training device: level, noise, room, microphone, telephone, SpecAugment.

Speed is perturbed before, where clips are laid into rows (``corpus``): shapes stay as they are, as
captured graphs need them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_POINTS = 9
"""Frequencies at which a microphone's gain is drawn."""


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """How hard audio is perturbed; shares are of rows."""

    noise: float = 0.6
    snr: tuple[float, float] = (3.0, 35.0)
    """Decibels."""
    unsteady: float = 0.5
    """Share of rows whose noise swells and fades, several times a second."""
    tones: float = 0.1
    """Share of rows whose noise is some tones, as of a machine or music."""
    babble: float = 0.1
    """Share of rows with another row's speech behind them."""
    room: float = 0.2
    telephone: float = 0.15
    """Share of rows cut off at 3 to 4 kHz."""
    microphone: float = 0.0
    """Share of rows heard through another microphone: some frequencies louder, some fainter."""
    microphone_gain: float = 9.0
    """Decibels, at most, either way."""
    tract: float = 0.5
    """Share of rows whose frequencies are stretched, as by another length of the vocal tract."""
    tract_range: float = 0.12
    """Stretched by at most this much, either way."""
    frequency_masks: int = 2
    frequency_width: int = 20
    """Mel bins."""
    time_masks: int = 3
    time_share: float = 0.05
    """Of the row's frames, for one mask."""


def _chance(rows: int, share: float, like: Tensor) -> Tensor:
    return torch.rand(rows, 1, device=like.device) < share


def _power(pcm: Tensor, valid: Tensor) -> Tensor:
    loud = (pcm.abs() > 1e-4) & valid
    return (pcm.square() * loud).sum(1, keepdim=True) / loud.sum(1, keepdim=True).clamp(min=1)


def _noise(bands: Tensor, like: Tensor, config: AugmentConfig) -> Tensor:
    """Return noise [rows, samples] of power 1: of a random colour, unsteady in some rows, or tones.

    Args:
        bands: [1, samples + 1], 0 to 1.
        like: [rows, samples].
        config: the shares.
    """
    rows, width = like.shape
    device = like.device
    tilt = torch.rand(rows, 1, device=device) * 1.6 - 0.2
    colour = (bands[:, : width // 2 + 1] * 2 + 0.01) ** -tilt
    hiss = torch.fft.irfft(
        torch.fft.rfft(torch.randn_like(like)) * colour[:, : width // 2 + 1], width
    )
    seconds = torch.arange(width, device=device) / 16_000
    base = 60 * 2 ** (torch.rand(rows, 1, 1, device=device) * 4)
    ratio = 1 + 5 * torch.rand(rows, 4, 1, device=device)
    tones = torch.sin(2 * math.pi * base * ratio * seconds).sum(1)
    noise = torch.where(_chance(rows, config.tones, like), tones, hiss)
    swell = torch.randn(rows, 1, max(2, width * 6 // 16_000), device=device).exp()
    swell = nn.functional.interpolate(swell, width, mode="linear")[:, 0]
    noise = torch.where(_chance(rows, config.unsteady, like), noise * swell, noise)
    return noise / noise.square().mean(1, keepdim=True).sqrt().clamp(min=1e-8)


def _microphone(bands: Tensor, like: Tensor, config: AugmentConfig) -> Tensor:
    """Return the gain of each row's microphone, [rows, bands], smooth over frequency.

    Args:
        bands: [1, bands], 0 to 1; the points between which gains go straight lie closer below.
        like: [rows, samples].
        config: how far they go.
    """
    decibels = (torch.rand(len(like), _POINTS, device=like.device) * 2 - 1) * config.microphone_gain
    place = bands[0].sqrt() * (_POINTS - 1)
    low = place.floor().long().clamp(max=_POINTS - 2)
    part = place - low
    gain: Tensor = 10 ** ((decibels[:, low] * (1 - part) + decibels[:, low + 1] * part) / 20)
    return torch.where(_chance(len(like), config.microphone, like), gain, 1.0)


def perturb(pcm: Tensor, lengths: Tensor, config: AugmentConfig) -> Tensor:
    """Perturb audio [rows, samples]; what lies behind a row's length stays zero."""
    rows, width = pcm.shape
    valid = torch.arange(width, device=pcm.device) < lengths[:, None]
    power = _power(pcm, valid)
    size = 2 * width
    bands = torch.linspace(0, 1, width + 1, device=pcm.device)[None]
    spectrum = torch.fft.rfft(pcm, size)
    # A room: exponentially decaying noise with the direct sound in front.
    decay = torch.rand(rows, 1, device=pcm.device) * 0.35 + 0.05
    seconds = torch.arange(8000, device=pcm.device) / 16_000
    echo = torch.randn(rows, 8000, device=pcm.device) * torch.exp(-6.9 * seconds / decay) * 0.04
    echo = echo * torch.rand(rows, 1, device=pcm.device)
    echo[:, 0] = 1.0
    room = torch.fft.rfft(echo, size)
    spectrum = torch.where(_chance(rows, config.room, pcm), spectrum * room, spectrum)
    spectrum = spectrum * _microphone(bands, pcm, config)
    # A telephone: nothing above 3 to 4 kHz.
    edge = torch.rand(rows, 1, device=pcm.device) * 0.125 + 0.375
    cut = (bands > edge) & _chance(rows, config.telephone, pcm)
    pcm = torch.fft.irfft(spectrum.masked_fill(cut, 0), size)[:, :width]
    hiss = _noise(bands, pcm, config)
    low, high = config.snr
    ratio = torch.rand(rows, 1, device=pcm.device) * (high - low) + low
    level = (power.clamp(min=1e-4) * 10 ** (-ratio / 10)).sqrt()
    pcm = pcm + torch.where(_chance(rows, config.noise, pcm), hiss * level, hiss * 1e-5)
    other = pcm.roll(1, 0)
    ratio = torch.rand(rows, 1, device=pcm.device) * 15 + 8
    level = (power / _power(other, valid).clamp(min=1e-8) * 10 ** (-ratio / 10)).sqrt()
    mixed = pcm + other * level
    spoken = power > 0
    pcm = torch.where(_chance(rows, config.babble, pcm) & spoken, mixed, pcm)
    gain = 10 ** (torch.rand(rows, 1, device=pcm.device) * 1.2 - 0.9)
    return (pcm * gain).clamp(-1, 1) * valid


def stretch_features(features: Tensor, config: AugmentConfig) -> Tensor:
    """Stretch the mel axis of [rows, frames, bins], each row by its own factor.

    Vocal tract length perturbation (Jaitly and Hinton, 2013): one voice becomes many, and an
    adult's more like a child's.
    """
    rows, _, bins = features.shape
    device = features.device
    factor = 1 + (torch.rand(rows, 1, device=device) * 2 - 1) * config.tract_range
    factor = torch.where(_chance(rows, config.tract, features), factor, 1.0)
    place = (torch.arange(bins, device=device) * factor).clamp(max=bins - 1)
    low = place.floor().long()
    part = (place - low)[:, None]
    below = torch.take_along_dim(features, low[:, None], dim=2)
    above = torch.take_along_dim(features, (low + 1).clamp(max=bins - 1)[:, None], dim=2)
    return below * (1 - part) + above * part


def mask_features(features: Tensor, frames: Tensor, config: AugmentConfig) -> Tensor:
    """SpecAugment (Park et al., 2019, arXiv 1904.08779) on [rows, frames, bins]."""
    rows, count, bins = features.shape
    device = features.device
    hidden = torch.zeros(rows, count, bins, dtype=torch.bool, device=device)
    for _ in range(config.frequency_masks):
        width = torch.rand(rows, 1, device=device) * config.frequency_width
        start = torch.rand(rows, 1, device=device) * (bins - width)
        bin_index = torch.arange(bins, device=device)[None]
        hidden |= ((bin_index >= start) & (bin_index < start + width))[:, None]
    for _ in range(config.time_masks):
        width = torch.rand(rows, 1, device=device) * frames[:, None] * config.time_share
        start = torch.rand(rows, 1, device=device) * (frames[:, None] - width)
        frame_index = torch.arange(count, device=device)[None]
        hidden |= ((frame_index >= start) & (frame_index < start + width))[..., None]
    return features.masked_fill(hidden, 0.0)


def perturbed_features(
    listen: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    pcm: Tensor,
    lengths: Tensor,
    config: AugmentConfig,
) -> tuple[Tensor, Tensor]:
    """Return features of perturbed audio, perturbed themselves, and the frames of each row.

    Args:
        listen: from audio and lengths to features and frames (``features.LogMel``).
        pcm: [rows, samples].
        lengths: [rows].
        config: how much of what.
    """
    features, frames = listen(perturb(pcm, lengths, config), lengths)
    return mask_features(stretch_features(features, config), frames, config), frames


__all__ = [
    "AugmentConfig",
    "mask_features",
    "perturb",
    "perturbed_features",
    "stretch_features",
]
