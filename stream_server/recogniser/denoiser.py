"""One whole denoising step on the device: embed, condition, layers, head, vocabulary, next canvas.

No host synchronisation and no allocation whose size depends on data, so that a step can be held
by a CUDA graph. State lies in slots: a row's prompt, canvas, conditioning, temperature and noise.

What is run is units: stretches of so many places of a canvas or positions of a prompt, whoever's.
So a step takes what its canvases hold, not what the widest would, however they are mixed. The
prompt of a new row is run in the row's first step: in each layer its keys are there before
anybody attends. Alone it would read all the weights once more, as long as a step of some rows.
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
from stream_server.recogniser.stack import KeyValues, Stack, quantise_layers, run_together


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
    heard: Tensor
    """[slots, positions, hidden], embeddings of a prompt that is still to be run."""
    entropy: Tensor
    """[slots, canvas], of the last step."""
    seeds: Tensor
    """[slots], of the next step's noise, int64."""
    heat: Tensor
    """[slots], temperature of the next step."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step tells; [units, places] each. The next canvas is in the slots."""

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
        unit: places or positions of a unit, a divisor of ``width``; 0 is ``width``.
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
        unit: int = 0,
    ) -> None:
        config = model.config.text_config
        self.unit = unit or width
        if width % self.unit:
            raise ValueError(f"canvases of {width} are not whole units of {self.unit}")
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

        hidden = self.embedding.shape[1]
        positions = -(-max(1, capacity - width) // self.unit) * self.unit
        return Slots(
            cache=KeyValues.allocate(self.stack.layers, slots, capacity),
            prompts=count(),
            widths=count(),
            canvas=torch.zeros(slots, width, dtype=torch.long, device=device),
            soft=self.embedding.new_zeros(slots, width, hidden),
            heard=self.embedding.new_zeros(slots, positions, hidden),
            entropy=torch.zeros(slots, width, device=device),
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

    def units(self, slots: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return the units of rows whose canvases are all of one width, row after row.

        Args:
            slots: [rows].
            width: whole units.

        Returns:
            The slot of each unit, and which unit of its row it is.
        """
        each = width // self.unit
        parts = torch.arange(each, device=slots.device).repeat(slots.shape[0])
        return slots.repeat_interleave(each, output_size=len(parts)), parts

    def _in_units(self, state: Tensor) -> Tensor:
        """Return [slots, places, ...] as [slots, units, places of a unit, ...], in place."""
        return state.view(state.shape[0], -1, self.unit, *state.shape[2:])

    def read(self, slots: Tensor, parts: Tensor) -> Tensor:
        """Run units of prompts alone, of which all before them have been run.

        Args:
            slots: [units].
            parts: [units], which unit of its prompt each is.

        Returns:
            Hidden states [tokens, hidden].
        """
        place = self._prompt_place(slots, parts)
        heard = self._in_units(self.slots.heard)[slots, parts].flatten(0, 1)
        return self.prompt_stack.run(heard, self.slots.cache, place)

    def _prompt_place(self, slots: Tensor, parts: Tensor) -> Place:
        lengths = self.slots.prompts[slots]
        return Place(len(slots), self.unit, 0, slots, parts * self.unit, lengths, True)

    def scores(
        self, slots: Tensor, parts: Tensor, prompts: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Predict the clean canvases: scores [tokens, vocabulary], before the soft cap.

        Args:
            slots: [units], of canvases.
            parts: [units], which unit of its canvas each is.
            prompts: the same of prompts that are run beside them.
        """
        state = self.slots
        units = slots.shape[0]
        tokens = self._in_units(state.canvas)[slots, parts].reshape(-1)
        embedded = functional.embedding(tokens, self.embedding) * self._embedding_scale
        soft = self._in_units(state.soft)[slots, parts].flatten(0, 1)
        eps = self.stack.eps
        both = self._condition_in(self.kernels.norm(soft, self._condition_norm, eps))
        mixed = embedded + self._condition_out(self.kernels.gate(both))
        hidden = functional.rms_norm(mixed, (mixed.shape[-1],), None, eps)
        lengths = state.prompts[slots]
        starts, ends = lengths + parts * self.unit, lengths + state.widths[slots]
        place = Place(units, self.unit, 0, slots, starts, ends, False)
        if prompts is None:
            out = self.stack.run(hidden, state.cache, place)
        else:
            halves = (self.stack, place), (self.prompt_stack, self._prompt_place(*prompts))
            heard = self._in_units(state.heard)[prompts].flatten(0, 1)
            everything = run_together(halves, torch.cat([hidden, heard]), state.cache)
            out = everything[: len(hidden)]
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

    def step(
        self, slots: Tensor, parts: Tensor, prompts: tuple[Tensor, Tensor] | None = None
    ) -> Outcome:
        """Run one step on all units of some rows; see :meth:`scores` for the arguments."""
        state, unit = self.slots, self.unit
        units = slots.shape[0]
        scores = self.scores(slots, parts, prompts)
        heat = state.heat[slots].repeat_interleave(unit, output_size=units * unit)
        width = state.canvas.shape[1]
        # Of all slots, since a row's noise and what is accepted of it are the whole row's; they
        # are a few thousand numbers.
        uniform, fresh = map(self._in_units, count_noise(state.seeds, width, self.vocabulary))
        noise = uniform[slots, parts].view(-1)
        read = self.kernels.read_vocabulary(scores, heat, noise, self._cap, self.top)
        entropy = read.entropy.view(units, unit)
        self._in_units(state.entropy)[slots, parts] = entropy
        valid = torch.arange(width, device=slots.device) < state.widths[:, None]
        accepted = accept(state.entropy, valid, self.sampler.entropy_bound)
        kept = self._in_units(accepted)[slots, parts]
        sampled = read.sampled.view(units, unit).long()
        canvas = torch.where(kept, sampled, fresh[slots, parts])
        self._in_units(state.canvas)[slots, parts] = canvas
        soft = self._soften(scores, heat, read).view(units, unit, -1)
        self._in_units(state.soft)[slots, parts] = soft
        probability = read.probability.view(units, unit)
        return Outcome(read.argmax.view(units, unit), entropy, probability, kept)

    def _soften(self, scores: Tensor, heat: Tensor, read: Any) -> Tensor:
        """Return the mean embeddings of the distributions, [tokens, hidden]."""
        if read.places is not None:
            soft = self.kernels.mix_embeddings(self.embedding, read.places, read.weights)
        else:
            soft = self.kernels.spread(scores, heat, read, self._cap) @ self.embedding
        return soft * self._embedding_scale


__all__ = ["Denoiser", "Outcome", "Slots"]
