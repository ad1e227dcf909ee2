"""The published model: whisper encoder -> projector -> DiffusionGemma with LoRA.

Fulfils ``network.Network``. What sets it apart from the embedded model is its vocabulary of
262,144: scores of one row of 192 positions are 200 MB in float32, so a step works through the
rows in slices, and what a row keeps between steps is a soft embedding, 93 times smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from stream_server.recogniser.alignment import CtcFrames, TokenSpan, align
from stream_server.recogniser.backbone import TARGETS, Backbone
from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.denoise import (
    SamplerConfig,
    StepInput,
    StepResult,
    accept,
    random_tokens,
)
from stream_server.recogniser.draft import DraftConfig, Logs
from stream_server.recogniser.encoder import WhisperAudioEncoder
from stream_server.recogniser.features import RATE, FeatureConfig, LogMel
from stream_server.recogniser.gemma import PromptConfig
from stream_server.recogniser.memory import send
from stream_server.recogniser.model import CanvasConfig
from stream_server.recogniser.projector import Projector, ProjectorConfig
from stream_server.recogniser.support import GuardConfig

WINDOW_SECONDS = 30
"""Seconds of every row: Whisper's window."""
SLICE = 512
"""Canvas positions or CTC frames whose scores are held at once: 0.5 GB in float32, full size."""


@dataclass(frozen=True, slots=True)
class LoraShape:
    """Shape of the adapters."""

    rank: int = 16
    alpha: float = 32.0
    """The update is scaled by ``alpha / rank``."""
    targets: str = TARGETS
    """Regular expression of a linear layer's name within its layer."""
    sides: tuple[str, ...] = ("encoder", "decoder")
    """Which stacks have adapters."""


@dataclass(frozen=True, slots=True)
class PublishedConfig:
    """Everything about the published model that is not in its frozen parts."""

    name: str
    projector: ProjectorConfig
    lora: LoraShape = field(default_factory=LoraShape)
    languages: tuple[str, ...] = ("en", "de", "fr", "es", "hi", "zh")
    backbone: str = "google/diffusiongemma-26B-A4B-it"
    """A folder, or a name on the hub."""
    audio_encoder: str = "openai/whisper-small"
    """A folder, or a name on the hub."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    canvas: CanvasConfig = field(
        default_factory=lambda: CanvasConfig(buckets=(32, 64, 96, 128, 192), margin=8)
    )
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    # Off: what its CTC says of noise has not been measured.
    guard: GuardConfig = field(default_factory=lambda: GuardConfig(0, 0))
    draft: DraftConfig = field(default_factory=DraftConfig)
    max_seconds: float = float(WINDOW_SECONDS)
    silence_seconds: float = float(WINDOW_SECONDS)
    """Seconds of the window's silence behind an utterance that its prompt keeps. All of it is how
    the published adapter is taken to have been trained, and how training here does it; a second
    makes the prompt of a short utterance a quarter as long, if the error rate bears it."""


ReadHead = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Turns hidden states [frames, hidden] into the likeliest tokens and the norms, [frames] each."""


class HeadFrames:
    """CTC frames through the frozen head, of which only the columns that are asked for are made."""

    def __init__(
        self, backbone: Backbone, tokens: Tensor, best: list[int], norm: Tensor, blank: int
    ) -> None:
        """Keep what was read of the frames.

        Args:
            backbone: whose head.
            tokens: [frames, hidden].
            best: of each frame, the likeliest token.
            norm: [frames], logarithm of the summed exponentials of its scores.
            blank: the token that says nothing.
        """
        self._backbone = backbone
        self._tokens = tokens
        self._best = best
        self._norm = norm
        self._blank = blank

    def evidence(self, draft: Sequence[int], width: int, weight: float) -> Logs | None:
        """Return none: scores of 262,144 words at each position are held by nobody here."""
        return None

    def draft(self) -> list[int]:
        """Return the tokens of the best path."""
        pairs = zip([None, *self._best], self._best, strict=False)
        return [best for last, best in pairs if best not in (self._blank, last)]

    def read(self) -> float:
        """Return 1: the causal half is not asked."""
        return 1.0

    def sounds(self) -> None:
        """Return nothing: no phones are heard."""

    @torch.inference_mode()
    def align(self, tokens: Sequence[int]) -> list[TokenSpan] | None:
        """Return when each token was said; none where they do not fit into the frames."""
        columns = sorted({*tokens} - {self._blank})
        rows = self._backbone.model.lm_head.weight[[self._blank, *columns]]
        cap: float = self._backbone.model.final_logit_softcapping
        scores = torch.tanh((self._tokens @ rows.T).float() / cap) * cap
        logs = (scores - self._norm[:, None]).cpu().numpy().astype(np.float32)
        places = {token: place for place, token in enumerate(columns, 1)}
        return align(logs, [places.get(token, 0) for token in tokens])


class PublishedModel(nn.Module):
    """The three parts and what is between them."""

    def __init__(
        self,
        config: PublishedConfig,
        encoder: WhisperAudioEncoder,
        backbone: Backbone,
        prompts: Sequence[tuple[Sequence[int], Sequence[int]]],
    ) -> None:
        """Join the parts, with a fresh projector and fresh LoRA.

        Args:
            config: what joins them.
            encoder: frozen.
            backbone: frozen, without LoRA.
            prompts: tokens before and after the audio, by number of language.
        """
        super().__init__()
        self.config = config
        bins = encoder.encoder.config.num_mel_bins
        self.features = LogMel(FeatureConfig(bins, "absolute", WINDOW_SECONDS * RATE))
        self.encoder = encoder.requires_grad_(False)
        self.decoder = backbone
        lora = config.lora
        backbone.add_lora(lora.rank, lora.alpha, lora.targets, lora.sides)
        # The projector stays in float32: it is small, and trained so.
        self.projector = Projector(config.projector)
        self._prompts = [(list(before), list(after)) for before, after in prompts]

    @property
    def vocabulary(self) -> int:
        """Tokens that the decoder knows."""
        return self.decoder.vocabulary

    @property
    def conditioning_size(self) -> int:
        """Features of ``StepInput.conditioning``: soft embeddings."""
        return self.decoder.hidden_size

    @property
    def samples_per_ctc_frame(self) -> int:
        """Samples that one CTC frame stands for."""
        shortening: int = 2**self.config.projector.halvings
        return self.encoder.hop * shortening

    @property
    def longest_prompt(self) -> int:
        """Positions of the longest prompt: the audio's are always as many."""
        audio = -(-WINDOW_SECONDS * RATE // self.samples_per_ctc_frame)
        return audio + max(len(before) + len(after) for before, after in self._prompts)

    def listen(self, pcm: Tensor, lengths: Tensor) -> Tensor:
        """Turn audio into audio tokens [rows, 188, hidden] in float32; 30 s, silence included."""
        return self.encode(*self.features(pcm, lengths))

    def encode(self, features: Tensor, frames: Tensor) -> Tensor:
        """Turn features [rows, 3000, mel_bins] into audio tokens."""
        with torch.no_grad():
            dtype = next(self.encoder.parameters()).dtype
            states, counts = self.encoder(features.to(dtype), frames)
        tokens, _ = self.projector(states.float(), counts)
        projected: Tensor = tokens
        return projected

    def prompt(
        self, tokens: Tensor, languages: Sequence[int], lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Lay out prompts: chat template, audio in the places of ``<|audio|>``, instruction.

        Args:
            tokens: [rows, tokens, hidden].
            languages: number of each row's prompt.
            lengths: of each row, samples, behind which silence is left out as the configuration
                says; none keeps all of it.

        Returns:
            Embeddings [rows, positions, hidden] and the positions of each row.
        """
        # All at once: a launch or a transfer for each row takes longer than its work.
        parts = [part for language in languages for part in self._prompts[language]]
        ids = send([token for part in parts for token in part], tokens.device)
        around = torch.split(self.decoder.embed(ids), [len(part) for part in parts])
        audio = tokens.to(around[0].dtype)
        kept = [self._kept(each) for each in lengths or [WINDOW_SECONDS * RATE] * len(tokens)]
        pieces = [
            piece
            for row, heard in enumerate(audio)
            for piece in (around[2 * row], heard[: kept[row]], around[2 * row + 1])
        ]
        sizes = [sum(map(len, pieces[first : first + 3])) for first in range(0, len(pieces), 3)]
        positions = send(sizes, tokens.device)
        flat = torch.cat(pieces)
        if len(set(sizes)) == 1:
            return flat.view(len(sizes), sizes[0], -1), positions
        rows = list(torch.split(flat, sizes))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), positions

    def _kept(self, length: int) -> int:
        """Return the audio tokens that the prompt of so many samples has; the window's at most."""
        samples = length + int(self.config.silence_seconds * RATE)
        return -(-samples // self.samples_per_ctc_frame)

    def hear(
        self, pcm: Tensor, lengths: Tensor, languages: Tensor
    ) -> tuple[PromptCache, list[CtcFrames]]:
        """Turn audio into prompts and CTC frames; see ``network.Network``."""
        tokens, samples = self.listen(pcm, lengths), lengths.tolist()
        cache, _ = self.decoder.prefill(*self.prompt(tokens, languages.tolist(), samples))
        return cache, self.frames(tokens, samples, self.decoder.read_head)

    def frames(self, tokens: Tensor, lengths: Sequence[int], read: ReadHead) -> list[CtcFrames]:
        """Return the CTC frames of audio tokens.

        Args:
            tokens: [rows, tokens, hidden].
            lengths: of each row, samples.
            read: runs the head.
        """
        hop = self.samples_per_ctc_frame
        # Frames of the silence behind an utterance are nobody's.
        counts = [min(-(-length // hop), tokens.shape[1]) for length in lengths]
        heard = tokens.to(self.decoder.dtype)
        flat = torch.cat([heard[row, :count] for row, count in enumerate(counts)])
        parts = [read(part) for part in torch.split(flat, SLICE)]
        norms = torch.split(torch.cat([norm for _, norm in parts]), counts)
        # One transfer for all rows: the first moment at which the host waits for the device.
        best = torch.split(torch.cat([best for best, _ in parts]).cpu(), counts)
        blank = self.config.prompt.ctc_blank
        return [
            HeadFrames(self.decoder, own, likeliest.tolist(), norm, blank)
            for own, likeliest, norm in zip(torch.split(flat, counts), best, norms, strict=True)
        ]

    def step(self, rows: StepInput, cache: PromptCache) -> StepResult:
        """Run one denoising step; see ``network.Network``."""
        soft = rows.conditioning if any(rows.conditioned) else None
        hidden = self.decoder.refine(rows.canvas, rows.sizes, cache, soft)
        result = StepResult(
            canvas=torch.zeros_like(rows.canvas),
            argmax=torch.zeros_like(rows.canvas),
            conditioning=torch.zeros_like(hidden),
            entropy=torch.zeros(rows.canvas.shape, device=hidden.device),
            probability=torch.zeros(rows.canvas.shape, device=hidden.device),
            accepted=torch.zeros_like(rows.canvas, dtype=torch.bool),
        )
        for group in self._groups(rows.sizes):
            self._sample(rows, group, hidden, result)
        place = torch.arange(hidden.shape[1], device=hidden.device)[None]
        valid = place < torch.tensor(rows.sizes, device=hidden.device)[:, None]
        result.accepted.copy_(accept(result.entropy, valid, self.config.sampler.entropy_bound))
        for row, size in enumerate(rows.sizes):
            fresh = random_tokens(rows.generators[row], size, self.vocabulary)
            own = result.canvas[row, :size]
            own.copy_(torch.where(result.accepted[row, :size], own, fresh))
        return result

    def _groups(self, sizes: Sequence[int]) -> Iterator[range]:
        """Yield runs of rows of one size whose scores may be held at once."""
        first = 0
        for row in range(1, len(sizes) + 1):
            full = row == len(sizes) or sizes[row] != sizes[first]
            if full or (row + 1 - first) * sizes[first] > SLICE:
                yield range(first, row)
                first = row

    def _sample(self, rows: StepInput, group: range, hidden: Tensor, result: StepResult) -> None:
        """Turn hidden states of a run of rows into samples and statistics, in place."""
        part = slice(group.start, group.stop)
        size = rows.sizes[group.start]
        scores = self.decoder.raw_scores(hidden[part, :size])
        best, argmax = scores.max(dim=-1)
        result.argmax[part, :size] = argmax
        result.probability[part, :size] = (best - scores.logsumexp(dim=-1)).exp_()
        scores /= rows.temperature[part, None, None]
        result.conditioning[part, :size] = self.decoder.soften(scores)
        norm = scores.logsumexp(dim=-1)
        shares = scores.softmax(dim=-1)
        result.entropy[part, :size] = norm - torch.linalg.vecdot(shares, scores)
        # Sampling as ``torch.multinomial`` does it; the scores' memory takes the noise.
        for index, row in enumerate(group):
            noise = scores[index].exponential_(generator=rows.generators[row])
            result.canvas[row, :size] = shares[index].div_(noise).argmax(dim=-1)

    def trained(self) -> dict[str, Tensor]:
        """Return the weights that are trained: ``projector.*`` and ``lora.*``."""
        projector = {f"projector.{name}": t for name, t in self.projector.named_parameters()}
        return {**projector, **{f"lora.{name}": t for name, t in self.decoder.lora().items()}}


__all__ = [
    "SLICE",
    "WINDOW_SECONDS",
    "HeadFrames",
    "LoraShape",
    "PublishedConfig",
    "PublishedModel",
    "ReadHead",
]
