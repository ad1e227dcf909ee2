"""The recogniser: utterances in, hypotheses out, one denoising step at a time.

Knows tensors and tokens, nothing of clients, segments or time. Each row carries its own prompt
cache, canvas, noise and step count, so rows of any length and age share a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stream_server.recogniser.alignment import CtcFrames, TokenSpan
from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.denoise import (
    MASK,
    SamplerConfig,
    StepInput,
    StepResult,
    random_tokens,
    temperatures,
    text_length,
)
from stream_server.recogniser.interface import (
    SAMPLE_RATE,
    Hypothesis,
    HypothesisWord,
    RecogniserInfo,
    Row,
    Utterance,
)
from stream_server.recogniser.memory import fetch, send
from stream_server.recogniser.network import Heard, Keeper, Listener, Network, TextCodec
from stream_server.recogniser.support import GuardConfig, confidence, keep, support
from stream_server.recogniser.tokenizer import END

MIN_SAMPLES = SAMPLE_RATE // 4
"""Shorter audio is padded with silence to this."""


@dataclass(slots=True, eq=False)
class DiffusionRow:
    """An utterance being decoded."""

    utterance: Utterance
    cache: PromptCache
    ctc: CtcFrames
    canvas: Tensor
    """[canvas], tokens of the next step's input; where the network keeps them, of the first's."""
    generator: torch.Generator
    steps_done: int = 0
    begun: int = 0
    """Steps done when the present canvas was laid."""
    limit: int = 0
    """Steps that the present canvas gets."""
    grown: bool = False
    """Whether this is the second, larger canvas."""
    conditioning: Tensor | None = None
    """[canvas, features], what the last step left."""
    evidence: Tensor | None = None
    """[canvas, vocabulary], what CTC adds to the decoder's scores."""
    argmax: list[int] = field(default_factory=list)
    """The last step's best tokens."""
    unchanged: int = 0
    """Steps for which the best tokens have not changed."""
    is_laid: bool = False
    """Whether all that its next step needs is in the network."""
    rewind: Tensor | None = None
    """The generator's state before noise was drawn for a step that may not come."""


class _Hearing:
    """Rows that are listened to together, while a step of others runs."""

    def __init__(self, begin: Callable[[], Callable[[], Heard]]) -> None:
        self._begin: Callable[[], Callable[[], Heard]] | None = begin
        self._finish: Callable[[], Heard] | None = None
        self._parts: dict[int, tuple[PromptCache, CtcFrames]] = {}

    def begin(self) -> None:
        """Begin to listen, unless that was done."""
        if self._begin is not None:
            begin, self._begin = self._begin, None
            self._finish = begin()

    def wait(self, index: int) -> tuple[PromptCache, CtcFrames]:
        """Return what was heard of a row."""
        self.begin()
        if self._finish is not None:
            cache, frames = self._finish()
            self._finish = None
            # Apart: what one row holds, such as a slot, must not be kept by another.
            self._parts = {each: (cache.row(each), heard) for each, heard in enumerate(frames)}
        return self._parts[index]

    def forget(self, index: int) -> None:
        """Let go of a row's part."""
        del self._parts[index]


@dataclass(slots=True, eq=False)
class ListeningRow:
    """An utterance that is being listened to."""

    utterance: Utterance
    hearing: _Hearing
    index: int
    """In the hearing."""
    row: DiffusionRow | None = None
    """Once it has a canvas."""

    @property
    def ctc(self) -> CtcFrames:
        """Its CTC frames; waits for them."""
        return self.hearing.wait(self.index)[1] if self.row is None else self.row.ctc


@dataclass(slots=True)
class _Flight:
    """A step that was launched."""

    rows: list[DiffusionRow]
    result: StepResult | None
    """None where it stays in the network."""
    fetched: Callable[[], Sequence[Tensor]]
    """Waits for the best tokens, their entropies and probabilities."""


def _stack(parts: list[Tensor]) -> Tensor:
    """Return [rows, longest, ...], zero behind each; one launch where all are as long."""
    if len({len(part) for part in parts}) == 1:
        return torch.stack(parts)
    return pad_sequence(parts, batch_first=True)


def _merge(rows: Sequence[DiffusionRow]) -> PromptCache:
    """Return the prompts of rows as one batch."""
    caches = [row.cache for row in rows]
    return caches[0].merge(caches)


def _ready(row: Row) -> DiffusionRow | None:
    """Return a row that can be stepped; none where it is being listened to."""
    if isinstance(row, ListeningRow):
        return row.row
    return row if isinstance(row, DiffusionRow) else None


class DiffusionRecogniser:
    """Runs a network row by row; see ``interface.Recogniser``."""

    def __init__(
        self, model: Network, tokenizer: TextCodec, device: torch.device, steps: int
    ) -> None:
        config = model.config
        model.to(device)
        self._model = model
        self._listener = model if isinstance(model, Listener) else None
        self._keeper = model if isinstance(model, Keeper) else None
        self._tokenizer = tokenizer
        self._device = device
        self._sampler = config.sampler
        self._guard = config.guard
        self._merged: tuple[list[PromptCache], PromptCache] | None = None
        self._info = RecogniserInfo(
            name=config.name,
            languages=config.languages,
            max_samples=int(config.max_seconds * SAMPLE_RATE),
            max_rows=8 if device.type == "cpu" else 32,
            default_steps=steps,
        )

    @property
    def info(self) -> RecogniserInfo:
        """What this recogniser is and can take."""
        return self._info

    @property
    def sampler(self) -> SamplerConfig:
        """How canvases are refined."""
        return self._sampler

    @property
    def guard(self) -> GuardConfig:
        """When text is dropped."""
        return self._guard

    def retune(self, start: str, guard: GuardConfig) -> None:
        """Decode otherwise than the checkpoint says, rows that are not started yet.

        Args:
            start: what canvases start from; see :class:`SamplerConfig`.
            guard: when text is dropped.
        """
        self._sampler = replace(self._sampler, start=start)
        self._guard = guard

    def warm_up(self) -> None:
        """Decode a little noise, alone and in company, so that the first client does not wait."""
        hum = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32) * 0.01
        rows = self.start([Utterance(hum, steps=2), Utterance(hum[: SAMPLE_RATE // 2], steps=2)])
        self.step(rows[:1])
        self.step(rows)
        self.release(rows)

    @torch.inference_mode()
    def start(self, utterances: Sequence[Utterance]) -> Sequence[DiffusionRow | ListeningRow]:
        """Encode audio, write prompts, lay out canvases; or leave that to :meth:`launch`.

        It does where the network can listen beside a step: first comes the step.
        """
        if not utterances:
            return []
        sizes = [max(len(utterance.pcm), MIN_SAMPLES) for utterance in utterances]
        pcm = np.zeros((len(sizes), max(sizes)), dtype=np.float32)
        for row, utterance in enumerate(utterances):
            pcm[row, : len(utterance.pcm)] = utterance.pcm
        languages = [self._tokenizer.language(utterance.language) for utterance in utterances]
        audio = torch.from_numpy(pcm), torch.tensor(sizes), torch.tensor(languages)
        if self._listener is not None:
            hearing = _Hearing(partial(self._listener.begin, *audio))
            return [ListeningRow(each, hearing, index) for index, each in enumerate(utterances)]
        cache, frames = self._model.hear(*(each.to(self._device) for each in audio))
        return [
            self._row(utterance, cache.row(index), frames[index])
            for index, utterance in enumerate(utterances)
        ]

    def _row(self, utterance: Utterance, cache: PromptCache, ctc: CtcFrames) -> DiffusionRow:
        generator = torch.Generator(self._device).manual_seed(utterance.seed)
        row = DiffusionRow(utterance, cache, ctc, torch.empty(0), generator)
        heard = ctc.draft()
        # Where canvases start from CTC, it heard more by now than an earlier partial had.
        is_heard = self._sampler.start == "ctc"
        draft = heard if is_heard else list(utterance.draft)
        plan = self._model.config.canvas
        expected = max(len(heard), len(draft))
        seconds = len(utterance.pcm) / SAMPLE_RATE
        need = max(expected + expected // 4, int(seconds * plan.tokens_per_second / 2))
        self._lay_canvas(row, draft, plan.bucket(need + plan.margin), utterance.steps)
        weight = self._model.config.draft.guidance
        if is_heard and (scores := ctc.evidence(draft, len(row.canvas), weight)) is not None:
            row.evidence = torch.from_numpy(scores).to(self._device)
        return row

    def _lay_canvas(self, row: DiffusionRow, draft: list[int], width: int, steps: int) -> None:
        """Give a row a canvas of noise, begun from a draft if there is one; or of masks."""
        if row.rewind is not None:
            # Noise was drawn for a step on the canvas before, and there is none.
            row.generator.set_state(row.rewind)
        row.is_laid, row.rewind = False, None
        row.canvas = random_tokens(row.generator, width, self._model.vocabulary)
        draft = [*draft[: width - 1], END] if draft else []
        if self.sampler.is_absorbing:
            draft = [MASK] * width
        if draft:
            row.canvas[: len(draft)] = send(draft, self._device)
        row.conditioning = row.evidence = None
        row.argmax = []
        row.unchanged = 0
        row.begun, row.limit = row.steps_done, steps

    def _caches(self, rows: Sequence[DiffusionRow]) -> PromptCache:
        """Return the prompts of ``rows`` as one batch, kept while the rows stay the same."""
        caches = [row.cache for row in rows]
        # Kept, not only their ids: memory that is free is used again, by another utterance.
        if self._merged is None or list(map(id, self._merged[0])) != list(map(id, caches)):
            self._merged = (caches, caches[0].merge(caches))
        return self._merged[1]

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        """Run one denoising step on each row that has been listened to, or on all if none has."""
        return [each.whole() for each in self.launch(rows)()]

    @torch.inference_mode()
    def launch(self, rows: Sequence[Row]) -> Callable[[], Sequence[Hypothesis]]:
        """Begin what :meth:`step` does; see ``interface.Launcher``.

        Of what comes between two steps only this must: which rows are finished, and this launch.
        Listening begins behind it, and the words of finished rows are put off until after it.
        """
        ready = {index: row for index, row in enumerate(map(_ready, rows)) if row is not None}
        if ready:
            return partial(self._end, rows, ready, self._launch(list(ready.values())))
        self._begin_to_listen(rows)
        return partial(self._end, rows, ready, None)

    @torch.inference_mode()
    def _end(
        self, rows: Sequence[Row], ready: dict[int, DiffusionRow], flight: _Flight | None
    ) -> Sequence[Hypothesis]:
        """Wait for a step, which is launched now if it was not, and for what is listened to."""
        if flight is None:
            ready = dict(enumerate(self._lay_out(rows)))
            if not ready:
                return []
            flight = self._launch(list(ready.values()))
            self._prepare(flight.rows, [])
        else:
            # The device works: time to listen, and to prepare the next step.
            self._begin_to_listen(rows)
            self._prepare(flight.rows, [])
            self._prepare([], [row for row in self._lay_out(rows) if row not in flight.rows])
        found = dict(zip(ready, self._read(flight), strict=True))
        return [
            found[index] if index in found else Hypothesis((), (), (), step=0, is_final=False)
            for index in range(len(rows))
        ]

    def _begin_to_listen(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if isinstance(row, ListeningRow) and row.row is None:
                row.hearing.begin()

    def _lay_out(self, rows: Sequence[Row]) -> list[DiffusionRow]:
        """Give rows that were listened to canvases; return all of them."""
        laid = []
        for row in rows:
            if isinstance(row, ListeningRow) and row.row is None:
                row.row = self._row(row.utterance, *row.hearing.wait(row.index))
                row.hearing.forget(row.index)
            if (own_row := _ready(row)) is not None:
                laid.append(own_row)
        return laid

    def _launch(self, own: list[DiffusionRow]) -> _Flight:
        """Launch the network's step."""
        if self._keeper is not None:
            self._lay(self._keeper, [row for row in own if not row.is_laid])
            told = self._keeper.run([len(row.canvas) for row in own], self._caches(own))
            for row in own:
                row.is_laid, row.rewind = False, None
            return _Flight(own, None, fetch(told))
        result = self._model.step(self._input(own), self._caches(own))
        return _Flight(own, result, fetch([result.argmax, result.entropy, result.probability]))

    def _input(self, own: Sequence[DiffusionRow]) -> StepInput:
        """Return what a step of rows begins with."""
        sizes = [len(row.canvas) for row in own]
        evidence = None
        if any(row.evidence is not None for row in own):
            evidence = self._fill([row.evidence for row in own], sizes, self._model.vocabulary)
        done = [row.steps_done - row.begun for row in own]
        return StepInput(
            canvas=_stack([row.canvas for row in own]),
            sizes=tuple(sizes),
            conditioning=self._fill(
                [row.conditioning for row in own], sizes, self._model.conditioning_size
            ),
            conditioned=tuple(row.conditioning is not None for row in own),
            temperature=self._temperatures(own, done),
            left=tuple(row.limit - each - 1 for row, each in zip(own, done, strict=True)),
            generators=tuple(row.generator for row in own),
            evidence=evidence,
        )

    def _temperatures(self, own: Sequence[DiffusionRow], done: Sequence[int]) -> Tensor:
        return temperatures(done, [row.limit for row in own], self._sampler, self._device)

    def _lay(self, keeper: Keeper, own: Sequence[DiffusionRow]) -> None:
        """Lay the canvases of rows in the network."""
        if own:
            keeper.lay(self._input(own), _merge(own))
        for row in own:
            row.is_laid = True

    def _prepare(self, running: Sequence[DiffusionRow], fresh: Sequence[DiffusionRow]) -> None:
        """Set all that a next step needs, behind the one that runs, where the network keeps it.

        Args:
            running: rows of the step that runs. For whom it is the last on its canvas is known by
                its number; who is done sooner has been prepared in vain.
            fresh: rows that have not been stepped.
        """
        if self._keeper is None:
            return
        self._lay(self._keeper, fresh)
        own = [row for row in running if row.steps_done + 1 - row.begun < row.limit]
        if not own:
            return
        for row in own:
            row.is_laid, row.rewind = True, row.generator.get_state()
        heat = self._temperatures(own, [row.steps_done + 1 - row.begun for row in own])
        self._keeper.stir(heat, [row.generator for row in own], _merge(own))

    def _read(self, flight: _Flight) -> list[Hypothesis]:
        """Wait for a step, and say what each row has come to."""
        result = flight.result
        best, entropy, probability = (each.tolist() for each in flight.fetched())
        hypotheses = []
        for index, row in enumerate(flight.rows):
            size = len(row.canvas)
            if result is not None:
                # Views: every step's result has memory of its own.
                row.canvas = result.canvas[index, :size]
                row.conditioning = result.conditioning[index, :size]
            row.steps_done += 1
            tokens = best[index][:size]
            row.unchanged = row.unchanged + 1 if tokens == row.argmax else 0
            row.argmax = tokens
            hypotheses.append(
                self._hypothesis(row, entropy[index][:size], probability[index][:size])
            )
        return hypotheses

    def _fill(self, parts: Sequence[Tensor | None], sizes: list[int], features: int) -> Tensor:
        """Return [rows, canvas, features] with the part of each row in it, zero where none."""
        filled = [part for part in parts if part is not None]
        if len(filled) < len(parts):
            nothing = torch.zeros(max(sizes), features, device=self._device)
            filled = [
                nothing[:size] if part is None else part
                for part, size in zip(parts, sizes, strict=True)
            ]
        return _stack(filled)

    def _hypothesis(
        self, row: DiffusionRow, entropy: list[float], probability: list[float]
    ) -> Hypothesis:
        """Describe a row after a step, and settle whether it is finished."""
        config = self._sampler
        best = row.argmax
        length = text_length(best, self._tokenizer.ends)
        tokens = best[:length]
        # The end itself belongs to what must be sure; the filler behind it does not.
        spoken = entropy[: length + 1]
        sure = sum(spoken) / len(spoken) < config.confidence
        finished = row.steps_done - row.begun >= row.limit or (
            sure and row.unchanged >= config.stability
        )
        if finished and length == len(best) and self._grow(row):
            finished = False
        canvas = None
        if row.utterance.trace:
            canvas = "".join(self._tokenizer.piece(token) for token in best)
        said = Hypothesis(
            tokens=tuple(tokens),
            confidences=tuple(probability[:length]),
            words=(),
            step=row.steps_done,
            is_final=finished,
            language=row.utterance.language or self._info.languages[0],
            canvas=canvas,
        )
        if finished:
            # Of the row only this is kept: its slot is to be free at once.
            rest = partial(self._worded, said, row.ctc, len(row.utterance.pcm), self._guard)
            return replace(said, rest=rest) if self._listener else rest()
        if row.utterance.trace:
            # A canvas on its way is shown as it is.
            return self._worded(said, row.ctc, len(row.utterance.pcm), GuardConfig(0, 0))
        return said

    def _grow(self, row: DiffusionRow) -> bool:
        """Begin again, once, on the next larger canvas, where the text found no end on this one."""
        width = self._model.config.canvas.bucket(len(row.argmax) + 1)
        if row.grown or width <= len(row.argmax):
            return False
        row.grown = True
        self._lay_canvas(row, row.argmax, width, max(2, row.utterance.steps // 2))
        return True

    def _worded(
        self, said: Hypothesis, ctc: CtcFrames, samples: int, guard: GuardConfig
    ) -> Hypothesis:
        """Group tokens into words with times, confidences and the audio's support from CTC.

        Args:
            said: without words.
            ctc: of its row.
            samples: of its audio.
            guard: when words are left out.
        """
        spans = ctc.align(said.tokens)
        hop = self._model.samples_per_ctc_frame
        spoken = self._tokenizer.words(said.tokens)
        words: list[HypothesisWord] = []
        kept = keep([places for _, places in spoken], spans, guard, ctc.read, ctc.sounds)
        for (text, places), stays in zip(spoken, kept, strict=True):
            if not stays:
                continue
            sure = min(said.confidences[place] for place in places)
            start = end = None
            if spans is not None:
                heard: list[TokenSpan] = [spans[place] for place in places]
                start = min(heard[0].start * hop, samples)
                end = min(heard[-1].end * hop, samples)
                sure = confidence(sure, support(heard))
            words.append(HypothesisWord(text if words else text.lstrip(), sure, start, end))
        return replace(said, words=tuple(words), is_guarded=not all(kept))

    def release(self, rows: Sequence[Row]) -> None:
        """Forget rows."""
        self._merged = None


__all__ = ["MIN_SAMPLES", "DiffusionRecogniser", "DiffusionRow", "ListeningRow"]
