"""One whole denoising step on the device: embed, condition, layers, head, vocabulary, next canvas.

No host synchronisation and no allocation whose size depends on data, so that a step can be held
by a CUDA graph. State lies in slots: a row's prompt, canvas, conditioning, temperature and noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stream_server.recogniser.denoise import SamplerConfig, accept
from stream_server.recogniser.kernels.choice import Kernels
from stream_server.recogniser.kernels.noise import count_noise
from stream_server.recogniser.kernels.plain import Place
from stream_server.recogniser.products import read_product
from stream_server.recogniser.stack import KeyValues, Stack, quantise_layers


@dataclass(frozen=True, slots=True)
class Slots:
    """The state of rows being decoded, on the device; first dimension: slot."""

    cache: KeyValues
    prompts: Tensor
    """[slots], positions of the prompt."""
    widths: Tensor
    """[slots], places of the canvas."""
    canvas: Tensor
    """[slots, canvas], tokens of the next step's input."""
    soft: Tensor
    """[slots, canvas, hidden], soft embeddings of the last step; zero before the first."""
    seeds: Tensor
    """[slots], of the next step's noise, int64."""
    heat: Tensor
    """[slots], temperature of the next step."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step tells; [rows, canvas] each. The next canvas is in the slots."""

    argmax: Tensor
    entropy: Tensor
    probability: Tensor
    accepted: Tensor


class Denoiser:
    """Runs steps and prompts of a DiffusionGemma.

    Args:
        model: transformers' ``DiffusionGemmaForBlockDiffusion``.
        kernels: the operations.
        sampler: how a canvas is refined.
        slots: rows that there may be.
        capacity: positions of a row, prompt and canvas together.
        width: places of the largest canvas.
        top: self-condition on so many of the likeliest words; 0 on the whole distribution.
    """

    def __init__(
        self,
        model: Any,
        kernels: Kernels,
        sampler: SamplerConfig,
        slots: int,
        capacity: int,
        width: int,
        top: int = 0,
    ) -> None:
        config = model.config.text_config
        if capacity > config.sliding_window:
            raise ValueError(
                f"{capacity} positions: the sliding window of {config.sliding_window} would bind"
            )
        self.kernels = kernels
        self.sampler = sampler
        self.top = top
        self.prompt_stack = Stack(model.model.encoder.language_model, config, kernels, capacity)
        self.stack = Stack(model.model.decoder, config, kernels, capacity)
        self.embedding: Tensor = model.model.decoder.embed_tokens.weight.data
        self._embedding_scale: Tensor = model.model.decoder.embed_tokens.embed_scale.to(
            self.embedding
        )
        self._head: Tensor = model.lm_head.weight.data
        self._cap = float(config.final_logit_softcapping)
        condition = model.model.decoder.self_conditioning
        self._condition_norm: Tensor = condition.pre_norm.weight.data
        self._condition_in = read_product(condition.gate_proj, condition.up_proj)
        self._condition_out = read_product(condition.down_proj)
        self.vocabulary: int = config.vocab_size
        self.slots = self._allocate(slots, capacity, width)

    def _allocate(self, slots: int, capacity: int, width: int) -> Slots:
        device = self.embedding.device

        def count() -> Tensor:
            return torch.ones(slots, dtype=torch.long, device=device)

        return Slots(
            cache=KeyValues.allocate(self.stack.layers, slots, capacity),
            prompts=count(),
            widths=count(),
            canvas=torch.zeros(slots, width, dtype=torch.long, device=device),
            soft=self.embedding.new_zeros(slots, width, self.embedding.shape[1]),
            seeds=count(),
            heat=torch.ones(slots, device=device),
        )

    def quantise(self, dense: bool) -> None:
        """Put the experts, and if wanted the dense layers, into float8.

        The caller must let go of transformers' own module for its memory to become free.
        """
        names: tuple[str, ...] = ("experts_in", "experts_out")
        if dense:
            names += ("qkv", "output", "gate_up", "down")
        quantise_layers((self.prompt_stack, self.stack), names)

    def prefill(self, embeddings: Tensor, lengths: Tensor, slots: Tensor) -> Tensor:
        """Run prompts through the causal half, into their slots.

        Args:
            embeddings: [rows, positions, hidden].
            lengths: [rows].
            slots: [rows].

        Returns:
            Hidden states [rows, positions, hidden].
        """
        rows, width, hidden = embeddings.shape
        place = Place(rows, width, 0, slots, torch.zeros_like(lengths), lengths, True)
        flat = embeddings.reshape(rows * width, hidden).contiguous()
        return self.prompt_stack.run(flat, self.slots.cache, place).view(rows, width, hidden)

    def scores(self, slots: Tensor, width: int) -> Tensor:
        """Predict the clean canvases: scores [rows * width, vocabulary], before the soft cap."""
        state = self.slots
        rows = slots.shape[0]
        tokens = state.canvas[slots, :width].reshape(-1)
        embedded = functional.embedding(tokens, self.embedding) * self._embedding_scale
        soft = state.soft[slots, :width].reshape(rows * width, -1)
        eps = self.stack.eps
        both = self._condition_in(self.kernels.norm(soft, self._condition_norm, eps))
        mixed = embedded + self._condition_out(self.kernels.gate(both))
        hidden = functional.rms_norm(mixed, (mixed.shape[-1],), None, eps)
        prompts = state.prompts[slots]
        place = Place(rows, width, 0, slots, prompts, prompts + state.widths[slots], False)
        out = self.stack.run(hidden, state.cache, place)
        return functional.linear(out, self._head)

    def read_head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest tokens and the logarithms of the summed exponentials, [rows] each.

        Args:
            hidden: [rows, hidden], of CTC frames.
        """
        scores = functional.linear(hidden, self._head)
        heat = torch.ones(len(hidden), device=hidden.device)
        read = self.kernels.read_vocabulary(scores, heat, torch.zeros_like(heat), self._cap)
        # At temperature 1 the mass is the sum of exponentials relative to the peak.
        return read.argmax, read.floats[:, 2] + read.floats[:, 3].log()

    def step(self, slots: Tensor, width: int) -> Outcome:
        """Run one step on the rows in ``slots`` [rows], at canvases of at most ``width``."""
        state = self.slots
        rows = slots.shape[0]
        scores = self.scores(slots, width)
        heat = state.heat[slots].repeat_interleave(width, output_size=rows * width)
        uniform, fresh = count_noise(state.seeds[slots], width, self.vocabulary)
        read = self.kernels.read_vocabulary(scores, heat, uniform.view(-1), self._cap, self.top)
        entropy = read.entropy.view(rows, width)
        valid = torch.arange(width, device=slots.device) < state.widths[slots][:, None]
        kept = accept(entropy, valid, self.sampler.entropy_bound)
        canvas = torch.where(kept, read.sampled.view(rows, width).long(), fresh)
        state.canvas[slots, :width] = canvas
        state.soft[slots, :width] = self._soften(scores, heat, read).view(rows, width, -1)
        probability = read.probability.view(rows, width)
        return Outcome(read.argmax.view(rows, width), entropy, probability, kept)

    def _soften(self, scores: Tensor, heat: Tensor, read: Any) -> Tensor:
        """Return the mean embeddings of the distributions, [tokens, hidden]."""
        if read.places is not None:
            soft = self.kernels.mix_embeddings(self.embedding, read.places, read.weights)
        else:
            soft = self.kernels.spread(scores, heat, read, self._cap) @ self.embedding
        return soft * self._embedding_scale


__all__ = ["Denoiser", "Outcome", "Slots"]
