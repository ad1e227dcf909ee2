"""The published model with its prompts and steps on the device: slots, fused kernels, CUDA graphs.

Fulfils ``network.Network`` beside ``published.PublishedModel``, whose weights it runs. What
differs: keys and values stay in slots of preallocated memory, a step is a graph of fixed shape for
(rows, canvas), replayed with one launch, and noise is counted (``kernels.noise``) from one number
that a row's generator draws for each step, so its samples are others than those of the plain model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stream_server.config import RecogniserConfig
from stream_server.errors import ModelError
from stream_server.recogniser.alignment import CtcFrames
from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.denoise import StepInput, StepResult
from stream_server.recogniser.denoiser import Denoiser, Outcome
from stream_server.recogniser.features import HOP
from stream_server.recogniser.graphs import Graphs
from stream_server.recogniser.kernels.choice import Kernels, pick_kernels
from stream_server.recogniser.leases import Leases, SlotPrompts
from stream_server.recogniser.network import Network
from stream_server.recogniser.published import PublishedConfig, PublishedModel

ROWS = (1, 2, 4, 8, 16, 24, 32)
"""Rows of a graph of a step; fewer are filled up."""
PROMPT_ROWS = (1, 2, 4, 8)
"""Rows of a graph of prompts, and of one of audio."""
SPARE = 8
"""Slots beyond the most rows: of rows that have ended, but that something still holds."""
FIXED_TOKENS = 700
"""What a step costs before its first token, in tokens: 13 ms to read the weights, and 0.0195 ms a
token, on an H100 (tests/benchmarks/README.md)."""

Report = Callable[[str, int, int], None]
"""Told what goes on, how many parts of it are done, and of how many."""


def bucket(count: int, sizes: Sequence[int]) -> int:
    """Return the smallest of ``sizes``, which ascend, that holds ``count``.

    Raises:
        ValueError: none does.
    """
    for size in sizes:
        if size >= count:
            return size
    raise ValueError(f"{count} is more than {sizes[-1]}")


def group_rows(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Return which rows share a step.

    A group is as wide as its widest row, so a short row beside a long one costs padding; a step of
    its own costs :data:`FIXED_TOKENS`. The first row of a group is its widest.

    Args:
        sizes: places of each row's canvas.
        most: rows of a group.
    """
    groups: list[list[int]] = []
    width = 0
    for size in sorted(set(sizes), reverse=True):
        same = [row for row, each in enumerate(sizes) if each == size]
        if not groups or (width - size) * len(same) > FIXED_TOKENS:
            groups.append([])
            width = size
        groups[-1] += same
    return [group[i : i + most] for group in groups for i in range(0, len(group), most)]


def _fill(rows: Tensor, count: int) -> Tensor:
    """Return ``rows``, filled up with zero rows."""
    return nn.functional.pad(rows, (0, 0) * (rows.ndim - 1) + (0, count - len(rows)))


class DeviceModel:
    """Runs a published model's prompts and steps through a denoiser.

    Args:
        model: on its device, in evaluation mode.
        kernels: the operations.
        rows: of a graph, ascending; the last is the most that share a step.
        top: likeliest words that a step tells the next; 0 is all.
    """

    def __init__(
        self, model: PublishedModel, kernels: Kernels, rows: Sequence[int] = ROWS, top: int = 0
    ) -> None:
        widths = model.config.canvas.buckets
        # Prompts are filled up to a multiple of 16; canvases overwrite the filling.
        self._positions = -(-model.longest_prompt // 16) * 16
        self._leases = Leases(rows[-1] + SPARE)
        self._scratch = self._leases.free
        self._denoiser = Denoiser(
            model.decoder.model,
            kernels,
            model.config.sampler,
            slots=self._scratch + 1,
            capacity=self._positions + widths[-1],
            width=widths[-1],
            top=top,
        )
        self._model = model
        self._rows = tuple(rows)
        self._widths = widths
        self._device = self._denoiser.embedding.device
        self._graphs: Graphs[Any] = Graphs(self._device)

    @property
    def config(self) -> PublishedConfig:
        """Its configuration."""
        return self._model.config

    @property
    def vocabulary(self) -> int:
        """Tokens that the decoder knows."""
        return self._model.vocabulary

    @property
    def conditioning_size(self) -> int:
        """Features of ``StepInput.conditioning``: soft embeddings."""
        return self._model.conditioning_size

    @property
    def samples_per_ctc_frame(self) -> int:
        """Samples that one CTC frame stands for."""
        return self._model.samples_per_ctc_frame

    def to(self, device: torch.device) -> DeviceModel:
        """Refuse to move: graphs hold addresses.

        Raises:
            ValueError: it is on another device.
        """
        if torch.empty(0, device=device).device != self._device:
            raise ValueError(f"built on {self._device}, cannot move to {device}")
        return self

    def quantise(self) -> None:
        """Put the layers' weights into float8, before any graph is recorded.

        The model it was built on is left without layers: it goes on to listen and to lay out
        prompts, and cannot step any more. A layer's old weights go before the next one's come.
        """
        upstream = self._model.decoder.model.model
        for half in (upstream.encoder.language_model, upstream.decoder):
            half.layers = nn.ModuleList()
        self._denoiser.quantise(dense=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _here(self) -> contextlib.AbstractContextManager[object]:
        """Make this device the thread's own: Triton launches on that one, whatever its tensors."""
        if self._device.type != "cuda":
            return contextlib.nullcontext()
        return torch.cuda.device(self._device)

    @torch.inference_mode()
    def warm(self, report: Report | None = None) -> None:
        """Record the graphs of every bucket; takes a second or two each, kernels are compiled."""
        with self._here():
            self._record_all(report)

    def _record_all(self, report: Report | None) -> None:
        # Largest first: the others then fit into the memory of the first.
        steps = [(rows, width) for rows in self._rows[::-1] for width in self._widths[::-1]]
        total = len(steps) + 2 * len(PROMPT_ROWS)
        what = "recording CUDA graphs"
        for done, (rows, width) in enumerate(steps):
            if report is not None:
                report(what, done, total)
            self._graphs.record(
                ("step", rows, width), self._stepper(width), (self._slots([], rows),)
            )
        hidden = self._denoiser.embedding.shape[1]
        sound = self._model.features.config
        for done, rows in enumerate(PROMPT_ROWS[::-1]):
            if report is not None:
                report(what, len(steps) + 2 * done, total)
            slots = self._slots([], rows)
            empty = self._denoiser.embedding.new_zeros(rows, self._positions, hidden)
            inputs = (empty, torch.ones_like(slots), slots)
            self._graphs.record(("prefill", rows), self._denoiser.prefill, inputs)
            frames = sound.fixed_samples // HOP
            silence = torch.zeros(rows, frames, sound.mel_bins, device=self._device)
            counts = torch.full((rows,), frames, device=self._device)
            self._graphs.record(("listen", rows), self._model.encode, (silence, counts))
        if report is not None:
            report(what, total, total)

    def _stepper(self, width: int) -> Callable[[Tensor], Outcome]:
        return lambda slots: self._denoiser.step(slots, width)

    def _slots(self, slots: list[int], rows: int) -> Tensor:
        """Return slots, filled up with the one that is nobody's."""
        filled = slots + [self._scratch] * (rows - len(slots))
        return torch.tensor(filled, device=self._device)

    def hear(
        self, pcm: Tensor, lengths: Tensor, languages: Tensor
    ) -> tuple[PromptCache, list[CtcFrames]]:
        """Turn audio into prompts and CTC frames; see ``network.Network``.

        Raises:
            Overloaded: there are more rows than slots.
        """
        said, samples = languages.tolist(), lengths.tolist()
        with self._here():
            tokens = self._listen(pcm, lengths)
        embeddings, positions = self._model.prompt(tokens, said)
        leases = self._leases.take(len(embeddings))
        prompts = SlotPrompts.of(positions, leases)
        with self._here():
            self._prefill_all(embeddings, positions, prompts.slots)
            frames = self._model.frames(tokens, samples, self._denoiser.read_head)
        return prompts, frames

    def _listen(self, pcm: Tensor, lengths: Tensor) -> Tensor:
        """Turn audio into audio tokens [rows, tokens, hidden] in the decoder's precision."""
        features, frames = self._model.features(pcm, lengths)
        parts, most = [], PROMPT_ROWS[-1]
        for some, counts in zip(
            torch.split(features, most), torch.split(frames, most), strict=True
        ):
            rows = bucket(len(some), PROMPT_ROWS)
            inputs = (_fill(some, rows), _fill(counts, rows))
            heard: Tensor = self._run(("listen", rows), self._model.encode, inputs)
            # A copy: the next replay writes over a graph's result.
            parts.append(heard[: len(some)].to(self._denoiser.embedding.dtype, copy=True))
        return torch.cat(parts)

    def _prefill_all(self, embeddings: Tensor, lengths: Tensor, slots: list[int]) -> None:
        """Write keys and values of any number of rows."""
        most = PROMPT_ROWS[-1]
        for first in range(0, len(slots), most):
            part = slice(first, first + most)
            self._prefill(embeddings[part], lengths[part], slots[part])

    def _prefill(self, embeddings: Tensor, lengths: Tensor, slots: list[int]) -> None:
        """Write keys and values of at most the largest bucket's rows."""
        rows = bucket(len(slots), PROMPT_ROWS)
        more = (0, 0, 0, self._positions - embeddings.shape[1], 0, rows - len(slots))
        filled = torch.nn.functional.pad(embeddings.to(self._denoiser.embedding.dtype), more)
        counts = torch.nn.functional.pad(lengths, (0, rows - len(slots)), value=1)
        inputs = (filled, counts, self._slots(slots, rows))
        self._run(("prefill", rows), self._denoiser.prefill, inputs)
        self._denoiser.slots.prompts[self._slots(slots, len(slots))] = lengths

    def _run(self, key: tuple[Any, ...], call: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
        if key in self._graphs:
            return self._graphs.replay(key, inputs)
        return call(*inputs)

    def step(self, rows: StepInput, cache: PromptCache) -> StepResult:
        """Run one denoising step; see ``network.Network``."""
        if not isinstance(cache, SlotPrompts):
            raise TypeError("these prompts are not in slots: they come from another network")
        result = StepResult(
            canvas=torch.zeros_like(rows.canvas),
            argmax=torch.zeros_like(rows.canvas),
            conditioning=torch.zeros_like(rows.conditioning),
            entropy=torch.zeros(rows.canvas.shape, device=self._device),
            probability=torch.zeros(rows.canvas.shape, device=self._device),
            accepted=torch.zeros_like(rows.canvas, dtype=torch.bool),
        )
        slots = cache.slots
        with self._here():
            for group in group_rows(rows.sizes, self._rows[-1]):
                self._advance(rows, group, [slots[row] for row in group], result)
        return result

    def _advance(
        self, rows: StepInput, group: list[int], slots: list[int], result: StepResult
    ) -> None:
        """Run the step of one group and put its results in their places."""
        state = self._denoiser.slots
        count = len(group)
        widest = rows.sizes[group[0]]
        width = bucket(widest, self._widths)
        at = torch.tensor(group, device=self._device)
        filled = self._slots(slots, bucket(count, self._rows))
        own = filled[:count]
        state.canvas[own, :widest] = rows.canvas[at, :widest]
        state.soft[own, :widest] = rows.conditioning[at, :widest].to(state.soft.dtype)
        state.widths[own] = torch.tensor([rows.sizes[row] for row in group], device=self._device)
        state.heat[own] = rows.temperature[at]
        seeds = torch.empty(count, dtype=torch.long, device=self._device)
        for place, row in enumerate(group):
            seeds[place : place + 1].random_(generator=rows.generators[row])
        state.seeds[own] = seeds
        key = ("step", len(filled), width)
        outcome: Outcome = self._run(key, self._stepper(width), (filled,))
        result.canvas[at, :widest] = state.canvas[own, :widest]
        result.conditioning[at, :widest] = state.soft[own, :widest].to(result.conditioning.dtype)
        result.argmax[at, :widest] = outcome.argmax[:count, :widest].to(result.argmax.dtype)
        result.entropy[at, :widest] = outcome.entropy[:count, :widest]
        result.probability[at, :widest] = outcome.probability[:count, :widest]
        result.accepted[at, :widest] = outcome.accepted[:count, :widest]


def speed_up(
    model: PublishedModel,
    device: torch.device,
    config: RecogniserConfig,
    report: Report | None = None,
) -> Network:
    """Return the model in its fastest form: itself where the fused kernels cannot or may not run.

    Args:
        model: on ``device``; with weights in float8 it is used up, see :meth:`quantise`.
        device: where it runs.
        config: which kernels and weights.
        report: told of the graphs that are recorded.

    Raises:
        ModelError: the configuration wants what only the fused kernels can do, and they cannot run.
    """
    kernels = pick_kernels(device)
    if config.kernels == "plain" or kernels.name != "fused":
        if config.fused_only:
            raise ModelError(
                f"{config.fused_only} needs the fused kernels: --kernels auto, Triton, and a GPU "
                f"of compute capability 8.0 or above; this is {device} with plain kernels"
            )
        return model
    if config.weights == "float8" and torch.cuda.get_device_capability(device) < (9, 0):
        raise ModelError("--weights float8 needs a GPU of compute capability 9.0 or above")
    fast = DeviceModel(model, kernels, top=config.conditioning_words)
    if config.weights == "float8":
        fast.quantise()
    fast.warm(report)
    return fast


__all__ = [
    "FIXED_TOKENS",
    "PROMPT_ROWS",
    "ROWS",
    "SPARE",
    "DeviceModel",
    "Report",
    "bucket",
    "group_rows",
    "speed_up",
]
