"""The projector: encoder states to audio tokens of the decoder's width, and CTC on them.

Strided convolutions shorten the sequence to one audio token each 160 ms (1500 whisper states
become 188 tokens), a linear layer brings them to the decoder's hidden size. This is the part
that the published recipe trains, with CTC (Graves et al., 2006) as the loss that made it work
(model card of interfaze-ai/diffusion-gemma-asr-small).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ProjectorConfig:
    """Shape of the projector."""

    input_size: int
    width: int
    """Channels of the convolutions."""
    output_size: int
    """The decoder's hidden size."""
    halvings: int = 3
    """Convolutions of stride 2; 3 of them shorten 8 times."""
    kernel: int = 3
    """States that a convolution sees, odd."""
    hidden: int = 0
    """Width of a second linear layer before the last; 0 is none."""
    norm: bool = False
    """Whether the tokens are brought to unit scale, as a decoder trained from scratch likes it."""


class Projector(nn.Module):
    """Strided convolutions and one or two linear layers."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        sizes = [config.input_size] + [config.width] * config.halvings
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inner, outer, config.kernel, stride=2, padding=config.kernel // 2)
            for inner, outer in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.inner = nn.Linear(config.width, config.hidden) if config.hidden else None
        self.linear = nn.Linear(config.hidden or config.width, config.output_size)
        self.norm = nn.RMSNorm(config.output_size) if config.norm else nn.Identity()

    def forward(self, states: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Project; what lies behind a row's end does not reach its tokens.

        Args:
            states: [rows, states, input_size].
            counts: [rows], states of each row.

        Returns:
            Audio tokens [rows, tokens, output_size] and the tokens of each row.
        """
        hidden = states.transpose(1, 2)
        for convolution in self.convolutions:
            valid = torch.arange(hidden.shape[2], device=hidden.device) < counts[:, None]
            hidden = nn.functional.gelu(convolution(hidden * valid[:, None]))
            counts = torch.div(counts + 1, 2, rounding_mode="floor")
        hidden = hidden.transpose(1, 2)
        if self.inner is not None:
            hidden = nn.functional.gelu(self.inner(hidden))
        return self.norm(self.linear(hidden)), counts


class CtcHead(nn.Module):
    """Token scores for every part of an audio token.

    An audio token lasts 160 ms, in which several text tokens may fall; the head therefore gives
    ``parts`` CTC frames for each. Blank is token 0.
    """

    def __init__(self, input_size: int, vocabulary: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.vocabulary = vocabulary
        self.linear = nn.Linear(input_size, parts * vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return log-probabilities [rows, tokens * parts, vocabulary] in float32."""
        rows, count, _ = tokens.shape
        scores: Tensor = self.linear(tokens).view(rows, count * self.parts, self.vocabulary)
        return scores.float().log_softmax(dim=-1)


__all__ = ["CtcHead", "Projector", "ProjectorConfig"]
