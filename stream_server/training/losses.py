"""The three losses of the published recipe: diffusion, autoregressive, CTC.

One causal pass over ``prompt + text`` serves two of them: its hidden states give the
autoregressive loss, the prompt's part of its keys and values is what the denoiser reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional

from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.denoise import MASK, Noise, SamplerConfig, advance, reveal
from stream_server.recogniser.encoder import AudioEncoder, Tap
from stream_server.recogniser.model import Encoded, TranscriptionModel
from stream_server.recogniser.tokenizer import END


class Depth(Enum):
    """How far an update goes down the network."""

    HEARING = "hearing"
    """Encoder and projector alone, by CTC."""
    DENOISING = "denoising"
    """The decoder too."""
    CONDITIONED = "conditioned"
    """The decoder twice: a first pass without gradient conditions the second."""


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Weights and shares."""

    diffusion: float = 1.0
    autoregressive: float = 0.3
    ctc: float = 0.5
    middle_ctc: float = 0.3
    middle_layer: int = -1
    """Layer of the encoder that carries the CTC of phones; -1 is the last."""
    filler: float = 0.1
    """Weight of a position behind the end of text against one of the text."""
    all_noise: float = 0.3
    """Share of rows whose canvas is noise throughout."""
    draft: float = 0.25
    """Share of rows whose canvas starts from the CTC draft."""
    decoded: float = 1.0
    """Share of batches that reach the decoder; the others train what hears, in less time."""
    conditioned: float = 0.5
    """Share of those with self-conditioning."""
    carried: float = 1.0
    """Share of the decoder's gradient that goes on into projector and encoder. It has as much noise
    as CTC's, which drowns what a small batch has to say of hearing."""
    consistency: float = 0.0
    """Weight of what two hearings of a batch, differently perturbed, should agree on; 0 hears each
    batch once."""


class MiddleCtc(nn.Module):
    """A CTC head for phones on a layer in the middle of the encoder; training only.

    Phones are learnt long before pieces of words, and open the way to them. Hierarchical CTC:
    Krishna et al., 2018, arXiv 1807.06234.
    """

    def __init__(self, encoder: AudioEncoder, classes: int, layer: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(encoder.hidden_size)
        self.linear = nn.Linear(encoder.hidden_size, classes)
        self._tap = Tap(encoder, layer)

    def forward(self) -> Tensor:
        """Return log-probabilities [rows, states, classes] of what the encoder heard last."""
        scores: Tensor = self.linear(self.norm(self._tap.take()))
        return scores.float().log_softmax(dim=-1)


def teacher_forced(
    model: TranscriptionModel, encoded: Encoded, languages: Tensor, text: Tensor, lengths: Tensor
) -> tuple[PromptCache, Tensor]:
    """Run prompt and text through the causal half.

    Returns:
        The prompt's cache, and the autoregressive loss of a text token.
    """
    prompts, prompt_lengths = model.prompt(encoded, languages)
    rows, width, _ = prompts.shape
    words = model.decoder.embed(text).to(prompts.dtype)
    place = torch.arange(width + text.shape[1], device=text.device)[None] - prompt_lengths[:, None]
    inside = (place >= 0) & (place < text.shape[1])
    moved = torch.take_along_dim(words, place.clamp(0, text.shape[1] - 1)[..., None], dim=1)
    padded = functional.pad(prompts, (0, 0, 0, text.shape[1]))
    embeddings = torch.where(inside[..., None], moved, padded)
    cache, hidden = model.decoder.prefill(embeddings, prompt_lengths + lengths)
    prompt = PromptCache(
        tuple(keys[:, :, :width] for keys in cache.keys),
        tuple(values[:, :, :width] for values in cache.values),
        prompt_lengths,
    )
    steps = torch.arange(text.shape[1] + 1, device=text.device)[None]
    picked = torch.take_along_dim(hidden, (prompt_lengths[:, None] - 1 + steps)[..., None], dim=1)
    targets = functional.pad(text, (0, 1)).masked_fill(steps == lengths[:, None], END)
    scores = model.decoder.head(picked)
    each = functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
    spoken = (steps <= lengths[:, None]).flatten()
    return prompt, (each * spoken).sum() / spoken.sum()


def consistency_loss(logs: Tensor, counts: Tensor, text_lengths: Tensor) -> Tensor:
    """Return how far two hearings of the same audio are apart, in nats a text token.

    Each learns from the other as from a teacher: CR-CTC, Yao et al., 2024, arXiv 2410.05101. Here
    the hearings differ in room, noise, microphone and vocal tract too, so that what is learnt of
    some speakers holds for others.

    Args:
        logs: [2 * rows, frames, vocabulary], log-probabilities; the second half hears again.
        counts: [2 * rows], frames of each row.
        text_lengths: [2 * rows].
    """
    one, other = logs.chunk(2)
    first, second = one.detach(), other.detach()
    apart = (second.exp() * (second - one) + first.exp() * (first - other)).sum(dim=-1)
    frames = torch.arange(logs.shape[1], device=logs.device) < counts[: len(one), None]
    return (apart * frames).sum() / text_lengths.sum().clamp(min=1)


def carry(tokens: Tensor, share: float) -> Tensor:
    """Return the same numbers, of whose gradient a share goes on to what made them."""
    return tokens if share == 1.0 else torch.lerp(tokens.detach(), tokens, share)


def ctc_draft(logs: Tensor, counts: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Collapse the best path of each row.

    Returns:
        Tokens [rows, width] padded with 0, and how many each row has (at most ``width``).
    """
    best = logs.argmax(dim=-1)
    frames = torch.arange(best.shape[1], device=best.device) < counts[:, None]
    keep = (best != 0) & (best != functional.pad(best, (1, 0), value=-1)[:, :-1]) & frames
    place = (keep.cumsum(dim=1) - 1).masked_fill(~keep, width).clamp(max=width)
    draft = torch.zeros(best.shape[0], width + 1, dtype=best.dtype, device=best.device)
    draft.scatter_(1, place, best)
    return draft[:, :width], keep.sum(dim=1).clamp(max=width)


def corrupt(
    targets: Tensor,
    draft: Tensor,
    vocabulary: int,
    config: LossConfig,
    is_absorbing: bool = False,
) -> Tensor:
    """Return noisy canvases: a fraction drawn per row of uniform-random tokens, or of masks.

    Rows chosen for it start from ``draft`` instead of the truth, lightly corrupted, so that a
    warm start in service is a state the decoder knows; the absorbing scheme has no such start.
    """
    rows = targets.shape[0]
    device = targets.device
    kind = torch.rand(rows, 1, device=device)
    fraction = torch.rand(rows, 1, device=device)
    fraction = torch.where(kind < config.all_noise, torch.ones_like(fraction), fraction)
    drafted = kind > (1.0 if is_absorbing else 1 - config.draft)
    fraction = torch.where(drafted, fraction * 0.3, fraction)
    clean = torch.where(drafted, draft, targets)
    noise = torch.randint(vocabulary, targets.shape, device=device)
    if is_absorbing:
        noise = torch.full_like(noise, MASK)
    return torch.where(torch.rand(targets.shape, device=device) < fraction, noise, clean)


def diffusion_loss(
    model: TranscriptionModel,
    cache: PromptCache,
    targets: Tensor,
    text_lengths: Tensor,
    draft: Tensor,
    config: LossConfig,
    conditioned: bool,
) -> tuple[Tensor, Tensor]:
    """Predict the clean canvas from a noisy one.

    Args:
        model: the network.
        cache: the prompts.
        targets: [rows, canvas], text and then end-of-text to the canvas's end.
        text_lengths: [rows].
        draft: [rows, canvas], what CTC hears.
        config: weights and shares.
        conditioned: whether a first pass without gradient conditions the second.

    Returns:
        The loss of a position, and the share of text positions predicted right.
    """
    width = targets.shape[1]
    vocabulary = model.decoder.vocabulary
    sizes = torch.full_like(text_lengths, width)
    is_absorbing = model.config.sampler.is_absorbing
    canvas = corrupt(targets, draft, vocabulary, config, is_absorbing)
    conditioning = None
    if conditioned:
        with torch.no_grad():
            scores = model.decoder.denoise(canvas, sizes, cache, None, None)
            heat = torch.rand(len(sizes), device=scores.device) * 0.4 + 0.4
            noise = Noise(
                -torch.log(-torch.log(torch.rand_like(scores).clamp(1e-6, 1 - 1e-6))),
                torch.randint(vocabulary, canvas.shape, device=canvas.device),
            )
            if is_absorbing:
                left = torch.randint(8, sizes.shape, device=sizes.device)
                result = reveal(scores, canvas, heat, sizes, left)
            else:
                result = advance(scores, heat, sizes, noise, SamplerConfig())
            conditioning = result.conditioning
            onward = torch.rand(len(sizes), 1, device=canvas.device) < 0.5
            canvas = torch.where(onward, result.canvas, canvas)
    scores = model.decoder.denoise(canvas, sizes, cache, conditioning, None)
    place = torch.arange(width, device=targets.device)[None]
    weight = torch.where(place <= text_lengths[:, None], 1.0, config.filler)
    if is_absorbing:  # what is no mask is given, not predicted
        weight = weight * (canvas == MASK)
    each = functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
    loss = (each.view_as(weight) * weight).sum() / weight.sum().clamp(min=1e-6)
    with torch.no_grad():
        spoken = place <= text_lengths[:, None]
        right = ((scores.argmax(-1) == targets) & spoken).sum() / spoken.sum()
    return loss, right


__all__ = [
    "Depth",
    "LossConfig",
    "MiddleCtc",
    "carry",
    "consistency_loss",
    "corrupt",
    "ctc_draft",
    "diffusion_loss",
    "teacher_forced",
]
