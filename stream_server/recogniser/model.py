"""The whole network: features -> encoder -> projector -> DiffusionGemma, with CTC beside it.

The prompt is ``<bos> <language> <audio>*n <|text|>``; audio tokens stand where the published
model scatters them into its ``<|audio|>`` placeholders. This file knows shapes and modules, not
sampling (``denoise``), files (``checkpoint``) or rows that come and go (``recogniser``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stream_server.recogniser.alignment import CtcFrames, DenseFrames, greedy
from stream_server.recogniser.beam import BeamSearch
from stream_server.recogniser.decoder import DiffusionDecoder, PromptCache
from stream_server.recogniser.denoise import (
    SamplerConfig,
    StepInput,
    StepResult,
    advance,
    draw_noise,
    reveal,
)
from stream_server.recogniser.draft import DraftConfig, Logs
from stream_server.recogniser.encoder import Tap, build_encoder
from stream_server.recogniser.features import FeatureConfig, LogMel
from stream_server.recogniser.ngram import NgramModel
from stream_server.recogniser.phones import PhoneModel
from stream_server.recogniser.projector import CtcHead, Projector, ProjectorConfig
from stream_server.recogniser.support import GuardConfig
from stream_server.recogniser.tokenizer import BEGIN, END, TEXT

_LONE_TOKENS = 12
"""Of a draft that the causal half is asked of: one word seldom has more."""


@dataclass(frozen=True, slots=True)
class CanvasConfig:
    """How long a canvas is."""

    buckets: tuple[int, ...] = (16, 32, 48, 64, 96, 128)
    """Tokens; a canvas has one of these lengths, its end-of-text included."""
    tokens_per_second: float = 5.0
    """Of speech; the canvas of an utterance holds at least so many."""
    margin: int = 4
    """Tokens beyond what is expected."""

    def bucket(self, tokens: int) -> int:
        """Return the smallest bucket that holds ``tokens``, or the largest there is."""
        return next((size for size in self.buckets if size >= tokens), self.buckets[-1])


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that fixes the network; stored beside the weights as JSON."""

    name: str
    languages: tuple[str, ...]
    encoder_kind: str
    encoder: dict[str, Any]
    projector: ProjectorConfig
    decoder: dict[str, Any]
    experts: str = "grouped_mm"
    ctc_parts: int = 1
    features: FeatureConfig = field(default_factory=FeatureConfig)
    canvas: CanvasConfig = field(default_factory=CanvasConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    draft: DraftConfig = field(default_factory=DraftConfig)
    max_seconds: float = 20.0
    """Seconds of the longest utterance."""

    def to_json(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> ModelConfig:
        """Build from what :meth:`to_json` returned.

        Raises:
            TypeError: for a field that is missing or unknown.
        """
        canvas = dict(data["canvas"])
        canvas["buckets"] = tuple(canvas["buckets"])
        return ModelConfig(
            **{
                **data,
                "languages": tuple(data["languages"]),
                "projector": ProjectorConfig(**data["projector"]),
                "features": FeatureConfig(**data["features"]),
                "canvas": CanvasConfig(**canvas),
                "sampler": SamplerConfig(**data["sampler"]),
                "guard": GuardConfig(**data.get("guard", {})),
                "draft": DraftConfig(**data.get("draft", {})),
            }
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """Audio after encoder and projector."""

    tokens: Tensor
    """[rows, tokens, hidden], in the decoder's space."""
    counts: Tensor
    """[rows], audio tokens of each row."""
    ctc: Tensor
    """[rows, tokens * parts, vocabulary], log-probabilities; blank is token 0."""
    states: Tensor
    """[rows, states, encoder width], for an auxiliary loss."""
    state_counts: Tensor
    """[rows]."""

    def first(self, rows: int) -> Encoded:
        """Return the first rows."""
        return Encoded(*(getattr(self, item.name)[:rows] for item in fields(self)))


class TranscriptionModel(nn.Module):
    """The network in one module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.language: NgramModel | None = None
        """What is known of the language from text alone; a checkpoint may have it."""
        self.phones: PhoneModel | None = None
        """What sounds are heard, for the draft; see :meth:`hear_phones`."""
        self._tap: Tap | None = None
        self.features = LogMel(config.features)
        self.encoder = build_encoder(config.encoder_kind, config.encoder)
        self.projector = Projector(config.projector)
        self.decoder = DiffusionDecoder(config.decoder, config.experts)
        self.ctc = CtcHead(config.projector.output_size, self.decoder.vocabulary, config.ctc_parts)

    @property
    def vocabulary(self) -> int:
        """Tokens that the decoder knows."""
        return self.decoder.vocabulary

    def hear_phones(self, phones: PhoneModel) -> None:
        """Hear phones too from now on, if drafts ask for them; a checkpoint may have them.

        Raises:
            ValueError: they are of another encoder or vocabulary.
        """
        layers, width = len(self.encoder.layers), self.encoder.hidden_size
        if not 0 <= phones.layer < layers:
            raise ValueError(f"phones of layer {phones.layer}; the encoder has {layers}")
        if len(phones.scale) != width or len(phones.heads) != self.vocabulary:
            raise ValueError(f"phones of {len(phones.scale)} features; the encoder has {width}")
        self.phones, self._tap = phones, Tap(self.encoder, phones.layer)

    @property
    def conditioning_size(self) -> int:
        """Features of ``StepInput.conditioning``: here the scores themselves."""
        return self.decoder.vocabulary

    @property
    def samples_per_ctc_frame(self) -> int:
        """Samples that one CTC frame stands for."""
        shortening: int = 2**self.config.projector.halvings
        return self.encoder.hop * shortening // self.config.ctc_parts

    def listen(self, pcm: Tensor, lengths: Tensor) -> Encoded:
        """Turn audio into audio tokens; see :meth:`LogMel.forward` for the arguments."""
        features, frames = self.features(pcm, lengths)
        return self.encode(features, frames)

    def encode(self, features: Tensor, frames: Tensor) -> Encoded:
        """Turn features [rows, frames, mel_bins] into audio tokens."""
        dtype = self.projector.linear.weight.dtype
        states, state_counts = self.encoder(features.to(dtype), frames)
        tokens, counts = self.projector(states, state_counts)
        return Encoded(tokens, counts, self.ctc(tokens), states, state_counts)

    def prompt(self, encoded: Encoded, languages: Tensor) -> tuple[Tensor, Tensor]:
        """Lay out prompts.

        Args:
            encoded: the audio.
            languages: [rows], language tokens.

        Returns:
            Embeddings [rows, tokens + 3, hidden] and the positions of each row.
        """
        rows, width, _ = encoded.tokens.shape
        begin = torch.full_like(languages, BEGIN)
        head = self.decoder.embed(torch.stack([begin, languages], dim=1))
        text = self.decoder.embed(torch.full_like(languages, TEXT))
        body = torch.cat([encoded.tokens, torch.zeros_like(encoded.tokens[:, :1])], dim=1)
        place = torch.arange(width + 1, device=body.device) == encoded.counts[:, None]
        body = torch.where(place[..., None], text[:, None].to(body.dtype), body)
        return torch.cat([head.to(body.dtype), body], dim=1), encoded.counts + 3

    def prefill(self, encoded: Encoded, languages: Tensor) -> PromptCache:
        """Run the prompts through the causal half of the decoder."""
        embeddings, lengths = self.prompt(encoded, languages)
        cache, _ = self.decoder.prefill(embeddings, lengths)
        return cache

    def hear(
        self, pcm: Tensor, lengths: Tensor, languages: Tensor
    ) -> tuple[PromptCache, list[CtcFrames]]:
        """Turn audio into prompts and CTC frames; see ``network.Network``."""
        encoded = self.listen(pcm, lengths)
        rows = zip(self.ctc_logs(encoded), self.phone_logs(encoded), strict=True)
        cache = self.prefill(encoded, languages)
        return cache, [self._frames(*logs, cache.row(row)) for row, logs in enumerate(rows)]

    def _frames(self, logs: Logs, phones: Logs | None, prompt: PromptCache) -> DenseFrames:
        draft = self._draft(logs, phones, prompt)
        sounding = None
        if self.phones is not None and phones is not None:
            sounding = partial(self.phones.likeness, phones, draft)
        if not 0 < len(draft) <= _LONE_TOKENS:
            return DenseFrames(logs, draft, END, sounding=sounding)
        return DenseFrames(logs, draft, END, partial(self._read, draft, prompt), sounding)

    @torch.inference_mode()
    def _read(self, draft: Sequence[int], prompt: PromptCache) -> float:
        """Return what the causal half gives a token of a draft, its end among them, 0 to 1."""
        (read,) = self.decoder.read([draft], prompt, TEXT, END)
        return math.exp(read / (len(draft) + 1))

    def ctc_logs(self, encoded: Encoded) -> list[Logs]:
        """Return what CTC hears in each row: [frames, vocabulary], log-probabilities."""
        logs = encoded.ctc.float().cpu().numpy()
        counts = (encoded.counts * self.config.ctc_parts).tolist()
        return [logs[row, :count] for row, count in enumerate(counts)]

    def phone_logs(self, encoded: Encoded) -> list[Logs | None]:
        """Return what is heard of phones in each row: [states, phones], log-probabilities.

        Args:
            encoded: what the encoder gave last.
        """
        counts = encoded.state_counts.tolist()
        if self.phones is None or self._tap is None:
            return [None] * len(counts)
        states = self._tap.take().float().cpu().numpy()
        return [self.phones.logs(states[row, :count]) for row, count in enumerate(counts)]

    def _draft(self, logs: Logs, phones: Logs | None, prompt: PromptCache) -> tuple[int, ...]:
        """Return the text that all of them and the causal half find most likely."""
        config = self.config.draft
        if config.candidates == 1 and self.language is None:
            return tuple(greedy(logs))
        found = BeamSearch(config, self.language, self.phones).candidates(logs, phones)
        if config.causal == 0:
            return found[0].tokens
        read = self.decoder.read([each.tokens for each in found], prompt, TEXT, END)
        best = max(
            range(len(found)), key=lambda place: found[place].score + config.causal * read[place]
        )
        return found[best].tokens

    def step(self, rows: StepInput, cache: PromptCache) -> StepResult:
        """Run one denoising step; see ``network.Network``."""
        device = rows.canvas.device
        lengths = torch.tensor(rows.sizes, device=device)
        conditioned = torch.tensor(rows.conditioned, device=device)
        logits = self.decoder.denoise(rows.canvas, lengths, cache, rows.conditioning, conditioned)
        if rows.evidence is not None:
            logits = logits + rows.evidence
        if self.config.sampler.is_absorbing:
            left = torch.tensor(rows.left, device=device)
            return reveal(logits, rows.canvas, rows.temperature, lengths, left)
        noise = draw_noise(rows.generators, rows.sizes, self.vocabulary)
        return advance(logits, rows.temperature, lengths, noise, self.config.sampler)


__all__ = ["CanvasConfig", "Encoded", "ModelConfig", "TranscriptionModel"]
