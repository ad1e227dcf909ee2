"""The published model with its prompts and steps on the device: slots, fused kernels, CUDA graphs.

Fulfils ``network.Network`` beside ``published.PublishedModel``, whose weights it runs. What
differs: keys and values stay in slots of preallocated memory; a step is a graph of so many units of
canvases and of new prompts (``denoiser``), replayed with one launch; and noise is counted
(``kernels.noise``) from one number that a row's generator draws for each step, so its samples are
others than those of the plain model.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stream_server.config import RecogniserConfig
from stream_server.errors import ModelError
from stream_server.recogniser.alignment import CtcFrames, TokenSpan
from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.denoise import StepInput, StepResult
from stream_server.recogniser.denoiser import Denoiser, Outcome
from stream_server.recogniser.draft import Logs
from stream_server.recogniser.features import HOP
from stream_server.recogniser.graphs import Graphs
from stream_server.recogniser.kernels.choice import Kernels, pick_kernels
from stream_server.recogniser.leases import Leases, SlotPrompts
from stream_server.recogniser.memory import send, ship
from stream_server.recogniser.network import Heard, Network, Told
from stream_server.recogniser.published import PublishedConfig, PublishedModel
from stream_server.recogniser.units import PROMPT_UNITS, UNITS, bucket, split_rows

ROWS = 32
"""The most that share a step."""
LISTEN_ROWS = (1, 2, 4, 8)
"""Rows of a graph of audio."""
SPARE = 8
"""Slots beyond the most rows: of rows that have ended, but that something still holds."""
Report = Callable[[str, int, int], None]
"""Told what goes on, how many parts of it are done, and of how many."""


class _FramesBeside:
    """CTC frames that are aligned while a step runs, and wait for no other work of the device."""

    def __init__(
        self, frames: CtcFrames, beside: Callable[[], contextlib.AbstractContextManager[object]]
    ) -> None:
        """Wrap frames.

        Args:
            frames: that the host has waited for.
            beside: makes the stream on which they are aligned the current one.
        """
        self._frames = frames
        self._beside = beside

    def draft(self) -> list[int]:
        """See ``alignment.CtcFrames``."""
        return self._frames.draft()

    def evidence(self, draft: Sequence[int], width: int, weight: float) -> Logs | None:
        """See ``alignment.CtcFrames``."""
        return self._frames.evidence(draft, width, weight)

    def align(self, tokens: Sequence[int]) -> list[TokenSpan] | None:
        """See ``alignment.CtcFrames``."""
        with self._beside():
            return self._frames.align(tokens)

    def read(self) -> float:
        """See ``alignment.CtcFrames``."""
        return self._frames.read()

    def sounds(self) -> float | None:
        """See ``alignment.CtcFrames``."""
        return self._frames.sounds()


def _fill(rows: Tensor, count: int) -> Tensor:
    """Return ``rows``, filled up with zero rows."""
    return nn.functional.pad(rows, (0, 0) * (rows.ndim - 1) + (0, count - len(rows)))


class DeviceModel:
    """Runs a published model's prompts and steps through a denoiser.

    Args:
        model: on its device, in evaluation mode.
        kernels: the operations.
        rows: that share a step at most.
        top: likeliest words that a step tells the next; 0 is all.
    """

    def __init__(
        self, model: PublishedModel, kernels: Kernels, rows: int = ROWS, top: int = 0
    ) -> None:
        widths = model.config.canvas.buckets
        unit = math.gcd(*widths)
        # Prompts are filled up to whole units; canvases overwrite the filling.
        positions = -(-model.longest_prompt // unit) * unit
        self._leases = Leases(rows + SPARE)
        self._scratch = self._leases.free
        self._denoiser = Denoiser(
            model.decoder.model,
            kernels,
            model.config.sampler,
            slots=self._scratch + 1,
            capacity=positions + widths[-1],
            width=widths[-1],
            top=top,
            unit=unit,
        )
        self._model = model
        most = rows * (widths[-1] // unit)
        self._units = (*(each for each in UNITS if each < most), most)
        self._unread: dict[int, int] = {}
        """Units of the prompts that have not been run, by slot."""
        self._device = self._denoiser.embedding.device
        # Written over by each step; a read that was launched before it has been done by then.
        self._told = self._nothing_told(self._scratch + 1, widths[-1])
        self._graphs: Graphs[Any] = Graphs(self._device)
        # Run beside those of steps, so of another pool of memory.
        self._ears: Graphs[Tensor] = Graphs(self._device)
        self._ear: Any = None
        self._pen: Any = None
        """The stream on which texts are aligned: little work, which somebody waits for."""
        self._before: Any = None
        """What was launched before the last step."""
        if self._device.type == "cuda":
            self._ear = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._pen = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]
            self._before = torch.cuda.current_stream(self._device).record_event()

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
        steps = [(units, more) for units in self._units[::-1] for more in PROMPT_UNITS[::-1]]
        total = len(steps) + 1 + len(LISTEN_ROWS)
        what = "recording CUDA graphs"
        for done, (units, more) in enumerate(steps):
            if report is not None:
                report(what, done, total)
            inputs = (*self._fill_units([], units), *self._fill_units([], more))
            self._graphs.record(("step", units, more), self._step, inputs)
        last = PROMPT_UNITS[-1]
        self._graphs.record(("read", last), self._denoiser.read, self._fill_units([], last))
        sound = self._model.features.config
        for done, rows in enumerate(LISTEN_ROWS[::-1], len(steps) + 1):
            if report is not None:
                report(what, done, total)
            frames = sound.fixed_samples // HOP
            silence = torch.zeros(rows, frames, sound.mel_bins, device=self._device)
            counts = torch.full((rows,), frames, device=self._device)
            self._ears.record(rows, self._model.encode, (silence, counts))
        if report is not None:
            report(what, total, total)

    def _step(self, slots: Tensor, parts: Tensor, heard: Tensor, heard_parts: Tensor) -> Outcome:
        """Run a step, of which there may be no prompts."""
        prompts = (heard, heard_parts) if len(heard) else None
        return self._denoiser.step(slots, parts, prompts)

    def _fill_units(self, units: list[tuple[int, int]], count: int) -> tuple[Tensor, Tensor]:
        """Return slots and parts of units, filled up with some that are nobody's."""
        filled = units + [(self._scratch, 0)] * (count - len(units))
        # One transfer for both.
        slots, parts = send([[unit[each] for unit in filled] for each in range(2)], self._device)
        return slots, parts

    def hear(self, pcm: Tensor, lengths: Tensor, languages: Tensor) -> Heard:
        """Turn audio into prompts and CTC frames; see ``network.Network`` and :meth:`begin`."""
        return self.begin(pcm.cpu(), lengths.cpu(), languages.cpu())()

    def begin(self, pcm: Tensor, lengths: Tensor, languages: Tensor) -> Callable[[], Heard]:
        """Begin to listen, beside the step that was launched last; see ``network.Listener``.

        Prompts are only laid out: each is run in its row's first step. A slot that is free is in no
        step: who had it was told of the last one that it was in, so that one is over.

        Raises:
            Overloaded: there are more rows than slots.
        """
        said, samples = languages.tolist(), lengths.tolist()
        leases = self._leases.take(len(samples))
        if self._ear is not None:
            self._ear.wait_event(self._before)
        with self._on(self._ear):
            tokens = self._listen(ship(pcm, self._device), ship(lengths, self._device))
            embeddings, positions = self._model.prompt(tokens, said, samples)
            prompts = SlotPrompts.of(positions, leases)
            state = self._denoiser.slots
            own = send(prompts.slots, self._device)
            # Of slots that are in no step.
            state.heard[own, : embeddings.shape[1]] = embeddings.to(state.heard.dtype)
            state.prompts[own] = positions
        return functools.partial(self._finish, tokens, samples, prompts)

    def _finish(self, tokens: Tensor, samples: list[int], prompts: SlotPrompts) -> Heard:
        """Wait for what was listened to, but for no step."""
        with self._on(self._ear):
            frames = self._model.frames(tokens, samples, self._denoiser.read_head)
            counts = prompts.lengths.tolist()
        for slot, count in zip(prompts.slots, counts, strict=True):
            self._unread[slot] = -(-count // self._denoiser.unit)
        beside = functools.partial(self._on, self._pen)
        return prompts, [_FramesBeside(each, beside) for each in frames]

    def _on(self, stream: Any) -> contextlib.AbstractContextManager[object]:
        """Launch on a stream that waits for no step; it brings its device with it."""
        return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)

    def _listen(self, pcm: Tensor, lengths: Tensor) -> Tensor:
        """Turn audio into audio tokens [rows, tokens, hidden] in the decoder's precision."""
        features, frames = self._model.features(pcm, lengths)
        parts, most = [], LISTEN_ROWS[-1]
        for some, counts in zip(
            torch.split(features, most), torch.split(frames, most), strict=True
        ):
            rows = bucket(len(some), LISTEN_ROWS)
            inputs = (_fill(some, rows), _fill(counts, rows))
            heard = (
                self._ears.replay(rows, inputs)
                if rows in self._ears
                else self._model.encode(*inputs)
            )
            # A copy: the next replay writes over a graph's result.
            parts.append(heard[: len(some)].to(self._denoiser.embedding.dtype, copy=True))
        return torch.cat(parts)

    def read(self, slots: Sequence[int], left: int = 0) -> list[tuple[int, int]]:
        """Run what has not been run of some rows' prompts, but for the last units.

        Args:
            slots: of the rows.
            left: units that may be left.

        Returns:
            The slots and parts of those that are left, for the next step.
        """
        units = [(slot, part) for slot in slots for part in range(self._unread.pop(slot, 0))]
        while len(units) > left:
            some, units = units[: PROMPT_UNITS[-1]], units[PROMPT_UNITS[-1] :]
            inputs = self._fill_units(some, PROMPT_UNITS[-1])
            self._run(("read", PROMPT_UNITS[-1]), self._denoiser.read, inputs)
        return units

    def _run(self, key: tuple[Any, ...], call: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
        if key in self._graphs:
            return self._graphs.replay(key, inputs)
        return call(*inputs)

    def step(self, rows: StepInput, cache: PromptCache) -> StepResult:
        """Run one denoising step from given canvases; see ``network.Network``."""
        self.lay(rows, cache)
        argmax, entropy, probability = self.run(rows.sizes, cache)
        state, width = self._denoiser.slots, rows.canvas.shape[1]
        own = self._slots(cache)
        valid = torch.arange(width, device=self._device) < state.widths[own][:, None]
        soft = state.soft[own, :width].to(rows.conditioning.dtype)
        return StepResult(
            canvas=state.canvas[own, :width] * valid,
            argmax=argmax * valid,
            conditioning=soft * valid[..., None],
            entropy=entropy * valid,
            probability=probability * valid,
            accepted=self._told.accepted[own, :width] & valid,
        )

    def _slots(self, cache: PromptCache) -> Tensor:
        return send(_own(cache).slots, self._device)

    def lay(self, rows: StepInput, cache: PromptCache) -> None:
        """Put the state of rows into their slots; see ``network.Keeper``."""
        state, width = self._denoiser.slots, rows.canvas.shape[1]
        with self._here():
            # One transfer for both.
            own, widths = send([_own(cache).slots, rows.sizes], self._device)
            state.canvas[own, :width] = rows.canvas
            state.soft[own, :width] = rows.conditioning.to(state.soft.dtype)
            state.widths[own] = widths
            self.stir(rows.temperature, rows.generators, cache)

    def stir(
        self, temperature: Tensor, generators: Sequence[torch.Generator], cache: PromptCache
    ) -> None:
        """Set the temperatures and draw the seeds of a next step; see ``network.Keeper``."""
        state = self._denoiser.slots
        with self._here():
            own = self._slots(cache)
            seeds = torch.empty(len(generators), dtype=torch.long, device=self._device)
            for row, generator in enumerate(generators):
                seeds[row : row + 1].random_(generator=generator)
            state.seeds[own] = seeds
            state.heat[own] = temperature

    def run(self, sizes: Sequence[int], cache: PromptCache) -> Told:
        """Run one denoising step; see ``network.Keeper``."""
        slots, unit = _own(cache).slots, self._denoiser.unit
        counts = [-(-size // unit) for size in sizes]
        with self._here():
            if self._ear is not None:
                self._before = torch.cuda.current_stream(self._device).record_event()
            for group in split_rows(counts, self._units[-1]):
                self._advance(
                    [(slots[row], part) for row in group for part in range(counts[row])],
                    [slots[row] for row in group],
                )
            own, width, told = self._slots(cache), max(sizes), self._told
            every = (told.argmax, told.entropy, told.probability)
            argmax, entropy, probability = (each[own, :width] for each in every)
        return argmax, entropy, probability

    def _advance(self, units: list[tuple[int, int]], slots: list[int]) -> None:
        """Run the step of one group, and keep what it tells.

        Args:
            units: of its canvases, the slot and part of each.
            slots: of its rows.
        """
        new = self.read(slots, PROMPT_UNITS[-1])
        key = ("step", bucket(len(units), self._units), bucket(len(new), PROMPT_UNITS))
        canvases = self._fill_units(units, key[1])
        outcome: Outcome = self._run(key, self._step, (*canvases, *self._fill_units(new, key[2])))
        # From here on the device has a step to do: what is launched now keeps nobody waiting.
        at, parts = (each[: len(units)] for each in canvases)
        for name in ("argmax", "entropy", "probability", "accepted"):
            place: Tensor = getattr(self._told, name)
            told: Tensor = getattr(outcome, name)[: len(units)]
            place.view(len(place), -1, self._denoiser.unit)[at, parts] = told.to(place.dtype)

    def _nothing_told(self, slots: int, width: int) -> Outcome:
        """Return places for what the last step of each slot tells."""
        kinds = (torch.long, torch.float32, torch.float32, torch.bool)
        shape = (slots, width)
        return Outcome(*(torch.zeros(shape, dtype=kind, device=self._device) for kind in kinds))


def _own(cache: PromptCache) -> SlotPrompts:
    if not isinstance(cache, SlotPrompts):
        raise TypeError("these prompts are not in slots: they come from another network")
    return cache


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


__all__ = ["LISTEN_ROWS", "ROWS", "SPARE", "DeviceModel", "Report", "speed_up"]
