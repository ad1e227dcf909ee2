"""Log-mel features as Whisper computes them, batched, on whatever device the audio is on.

Differences from ``transformers.WhisperFeatureExtractor``: PyTorch throughout, no fixed length
unless asked for, and an optional level that is relative to the loudest bin, so that a quiet
microphone and a loud one give the same features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

FFT = 400
"""Samples of one window: 25 ms."""
HOP = 160
"""Samples from one frame to the next: 10 ms."""
RATE = 16_000


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """How audio becomes features."""

    mel_bins: int = 80
    level: Literal["absolute", "relative"] = "relative"
    """``absolute`` is Whisper's own scale; ``relative`` puts the loudest bin at 1."""
    fixed_samples: int = 0
    """Samples to which every utterance is padded (Whisper: 480000); 0 keeps its own length."""


def mel_filters(bins: int) -> Tensor:
    """Return Slaney mel filters, shape [FFT // 2 + 1, bins].

    The formula is Slaney's Auditory Toolbox scale (linear below 1 kHz, logarithmic above), with
    area normalisation, as in librosa and Whisper.
    """

    def to_mel(hertz: float) -> float:
        return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)

    mels = torch.linspace(to_mel(0.0), to_mel(RATE / 2), bins + 2, dtype=torch.float64)
    linear = mels * 200 / 3
    edges = torch.where(mels < 15, linear, 1000 * torch.exp(math.log(6.4) * (mels - 15) / 27))
    bands = torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bands - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bands) / (edges[2:] - edges[1:-1])
    filters = torch.clamp(torch.minimum(rising, falling), min=0)
    return (filters * 2 / (edges[2:] - edges[:-2])).float()


class LogMel(nn.Module):
    """PCM to log-mel frames. No trained weights."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)
        self.register_buffer("filters", mel_filters(config.mel_bins), persistent=False)

    @torch.no_grad()
    def forward(self, pcm: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features; a row's result does not depend on its neighbours.

        Args:
            pcm: [rows, samples], zero after each row's length, in [-1, 1].
            lengths: [rows], samples.

        Returns:
            Features [rows, frames, mel_bins], zero after each row's frames, and frames [rows].
        """
        config = self.config
        if config.fixed_samples:
            pcm = nn.functional.pad(pcm, (0, config.fixed_samples - pcm.shape[1]))
            lengths = torch.full_like(lengths, config.fixed_samples)
        mode = "reflect" if config.level == "absolute" else "constant"
        spectrum = torch.stft(
            pcm.float(), FFT, HOP, window=self.window, pad_mode=mode, return_complex=True
        )
        power = spectrum[..., :-1].abs().square().transpose(1, 2)
        logs = torch.log10(torch.clamp(power @ self.filters, min=1e-10))
        frames = torch.div(lengths, HOP, rounding_mode="floor").clamp(min=1, max=logs.shape[1])
        valid = torch.arange(logs.shape[1], device=pcm.device) < frames[:, None]
        loudest = logs.masked_fill(~valid[..., None], -10.0).amax(dim=(1, 2), keepdim=True)
        logs = torch.maximum(logs, loudest - 8.0)
        logs = (logs + 4.0) / 4.0 if config.level == "absolute" else (logs - loudest) / 4.0 + 1.0
        return logs.masked_fill(~valid[..., None], 0.0), frames


__all__ = ["FFT", "HOP", "RATE", "FeatureConfig", "LogMel", "mel_filters"]
