"""Audio encoders: log-mel frames to hidden states.

Two upstream modules of transformers, brought to one signature. ``whisper`` is
``WhisperEncoder`` (Radford et al., 2022), 50 states a second over a fixed 30 s; the published
model uses whisper-small's. ``conformer`` is ``ParakeetEncoder`` (Fast Conformer, Rekesh et al.,
2023, arXiv 2305.05084), of any length; the embedded model uses a small one, since convolution
makes far more of little data than plain attention does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ParakeetEncoderConfig, WhisperConfig
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoder
from transformers.models.whisper.modeling_whisper import WhisperEncoder


class ConformerAudioEncoder(nn.Module):
    """``ParakeetEncoder`` with lengths instead of masks."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        config = ParakeetEncoderConfig(**options)
        config._attn_implementation = "sdpa"
        self.encoder = ParakeetEncoder(config)
        self.hidden_size: int = config.hidden_size
        self.hop = 160 * config.subsampling_factor
        """Samples from one state to the next."""

    @property
    def layers(self) -> nn.ModuleList:
        """Its blocks."""
        layers: nn.ModuleList = self.encoder.layers
        return layers

    def scale_for_training(self) -> None:
        """Draw weights at the scale of PyTorch's own layers.

        Upstream draws all of them with a deviation of 0.02, made for fine-tuning: through the
        three subsampling convolutions that leaves 3e-4 of the input, and CTC then stays on its
        plateau for thousands of updates (training/LOG.md, 2026-11-23).
        """
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                module.reset_parameters()

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            features: [rows, frames, mel_bins].
            frames: [rows].

        Returns:
            States [rows, states, hidden_size] and the states of each row.
        """
        mask = torch.arange(features.shape[1], device=features.device) < frames[:, None]
        # Upstream's first convolution sees one frame behind an odd end.
        features = features.masked_fill(~mask[..., None], 0)
        states = self.encoder(input_features=features, attention_mask=mask).last_hidden_state
        counts = frames
        for _ in range(self.encoder.subsampling.num_layers):
            counts = torch.div(counts + 1, 2, rounding_mode="floor")
        return states, counts


class WhisperAudioEncoder(nn.Module):
    """``WhisperEncoder``: every row is 30 s long, silence included, as it was trained."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        config = WhisperConfig(**options)
        config._attn_implementation = "sdpa"
        self.encoder = WhisperEncoder(config)
        self.hidden_size: int = config.d_model
        self.hop = 320
        """Samples from one state to the next."""

    @property
    def layers(self) -> nn.ModuleList:
        """Its blocks."""
        layers: nn.ModuleList = self.encoder.layers
        return layers

    def scale_for_training(self) -> None:
        """Keep the weights: this encoder comes trained."""

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode; see :meth:`ConformerAudioEncoder.forward`."""
        states = self.encoder(features.transpose(1, 2)).last_hidden_state
        return states, torch.full_like(frames, states.shape[1])


AudioEncoder = ConformerAudioEncoder | WhisperAudioEncoder


class Tap:
    """Keeps what a layer in the middle of an encoder gave last."""

    def __init__(self, encoder: AudioEncoder, layer: int) -> None:
        self._states: Tensor | None = None
        encoder.layers[layer].register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: object, states: Tensor) -> None:
        self._states = states

    def take(self) -> Tensor:
        """Return its states [rows, states, width], once.

        Raises:
            RuntimeError: the encoder has not run since.
        """
        states, self._states = self._states, None
        if states is None:
            raise RuntimeError("the encoder has not run")
        return states


def build_encoder(kind: str, options: Mapping[str, Any]) -> AudioEncoder:
    """Return the encoder that ``kind`` names, with random weights."""
    if kind == "conformer":
        return ConformerAudioEncoder(options)
    if kind == "whisper":
        return WhisperAudioEncoder(options)
    raise ValueError(f"encoder kind {kind!r}: allowed are 'conformer' and 'whisper'")


__all__ = [
    "AudioEncoder",
    "ConformerAudioEncoder",
    "Tap",
    "WhisperAudioEncoder",
    "build_encoder",
]
