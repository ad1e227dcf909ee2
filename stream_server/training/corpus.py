"""Training batches: clips laid end to end in rows of like length, on the training device.

All audio lies on the device as one int16 vector; a batch is gathered from it there, so the loop
does no audio work on the CPU. A row is one clip or several with pauses between them, at a random
speed, with silence before and after, as the segmenter cuts speech in service.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.cuts import Cuts, parts_of
from stream_server.training.pack import RATE, Packed
from stream_server.training.phones import Lexicon


def _padded(lists: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
    out = np.zeros((len(lists), width), dtype=np.int64)
    for row, values in enumerate(lists):
        out[row, : len(values)] = values
    return torch.from_numpy(out), torch.tensor([len(values) for values in lists])


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """What a batch is made of."""

    seconds: float = 400.0
    """Audio in a batch, padding included."""
    durations: tuple[float, ...] = (2.5, 4.0, 6.0, 9.0, 13.0, 17.0)
    """Seconds of a row; each batch takes one of these."""
    speed: tuple[float, float] = (0.87, 1.15)
    joined: tuple[str, ...] = ()
    """Sets of single words, joined to strings; of others a row begins with one long clip."""
    parts: float = 0.0
    """Share of a set's rows that are made of parts of its clips, where they can be cut."""
    empty: float = 0.02
    """Share of rows in which nothing is said."""
    quiet: float = 0.7
    """Share of those that are filled with what recordings have before and behind their words."""
    tokens_per_second: float = 6.5
    """A row has room for so many, and no clip more is put into it than fits."""
    phones_per_second: float = 16.0
    short_until: int = 0
    """Updates in which only the rows of at most ``short`` seconds are drawn: CTC finds its way on
    short utterances first."""
    short: float = 3.0

    def shape(self, duration: float) -> Shape:
        """Return the shape of a batch of rows of ``duration`` seconds."""
        return Shape(
            rows=max(1, int(self.seconds / duration)),
            samples=int(duration * RATE),
            tokens=int(duration * self.tokens_per_second) + 2,
            phones=int(duration * self.phones_per_second) + 4,
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a batch; there are as many shapes as durations, whatever is said."""

    rows: int
    samples: int
    """Of a row."""
    tokens: int
    """Room for the text of a row."""
    phones: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A clip in a row."""

    clip: int
    start: int
    """Sample of the row where it begins."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a batch is made of, on the host: which clip goes where, and the texts."""

    shape: Shape
    pieces: list[tuple[int, Piece]]
    """Row and clip."""
    speeds: list[float]
    """Of the rows."""
    texts: tuple[Tensor, ...]
    """The fields of :class:`Batch` behind ``pcm``, in order, pinned for the device."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Audio and text, ready to be augmented."""

    pcm: Tensor
    """[rows, samples] in [-1, 1], zero behind each row's length."""
    lengths: Tensor
    """[rows], samples."""
    text: Tensor
    """[rows, tokens], padded with 0."""
    text_lengths: Tensor
    """[rows]."""
    phones: Tensor
    """[rows, phones], padded with 0, for the CTC in the middle of the encoder."""
    phone_lengths: Tensor
    """[rows]."""

    def twice(self) -> Batch:
        """Return the batch and, in as many rows more, the same once more."""
        return Batch(*(torch.cat([getattr(self, item.name)] * 2) for item in fields(self)))

    def copy(self, other: Batch) -> None:
        """Take over the contents of another batch of the same shape."""
        for item in fields(self):
            getattr(self, item.name).copy_(getattr(other, item.name))


_PARTS = "/parts"
_QUIET = "/quiet"


class Corpus:
    """Clips on a device, by set and length.

    Args:
        clips: what is trained on.
        tokenizer: of the text.
        weights: of the sets.
        config: what a batch is made of.
        device: where to.
        lexicon: of the words, for phones.
        cuts: of each clip (``cuts.find_cuts``), for the first clips.
    """

    def __init__(
        self,
        clips: Sequence[Packed],
        tokenizer: Tokenizer,
        weights: Mapping[str, float],
        config: BatchConfig,
        device: torch.device,
        lexicon: Lexicon | None = None,
        cuts: Sequence[Cuts] = (),
    ) -> None:
        self._config = config
        self._device = device
        self._lengths = [len(clip.pcm) for clip in clips]
        starts = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        self._starts = starts[:-1].tolist()
        self._audio = torch.empty(int(starts[-1]), dtype=torch.int16, device=device)
        for clip, start in zip(clips, self._starts, strict=True):
            self._audio[start : start + len(clip.pcm)] = torch.from_numpy(clip.pcm).to(device)
        texts = [clip.text for clip in clips]
        self._speakers = [clip.speaker for clip in clips]
        self._sets = [clip.set for clip in clips]
        if config.parts:
            for place, (clip, found) in enumerate(zip(clips, cuts, strict=False)):
                for part in parts_of(clip, found):
                    self._starts.append(self._starts[place] + part.start)
                    self._lengths.append(part.end - part.start)
                    texts.append(part.text)
                    self._speakers.append(clip.speaker)
                    self._sets.append(clip.set + _PARTS)
        self._quiet: list[int] = []
        """Stretches of clips in which nothing is said."""
        for place, found in enumerate(cuts):
            for start, end in found.quiet:
                self._quiet.append(len(texts))
                self._starts.append(self._starts[place] + start)
                self._lengths.append(end - start)
                texts.append("")
                self._speakers.append(self._speakers[place])
                self._sets.append(_QUIET)
        self._phones = [lexicon.encode(text) if lexicon else [] for text in texts]
        self._tokens = [tokenizer.encode(text) for text in texts]
        self._by_set: dict[str, list[int]] = {}
        self._by_speaker: dict[tuple[str, str], list[int]] = {}
        for index in sorted(range(len(texts)), key=lambda index: self._lengths[index]):
            name = self._sets[index]
            self._by_set.setdefault(name, []).append(index)
            self._by_speaker.setdefault((name, self._speakers[index]), []).append(index)
        shares = self._shares(weights)
        self._names = list(shares)
        self._weights = list(shares.values())
        self._shortest = [self._lengths[self._by_set[name][0]] for name in self._names]
        self._joined = {*config.joined, *(name for name in shares if name.endswith(_PARTS))}

    def _shares(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return how often rows begin with each set, its parts apart."""
        shares = {}
        for name in self._by_set:
            weight = weights.get(name.removesuffix(_PARTS), 0.0)
            if name.endswith(_PARTS):
                weight *= self._config.parts
            elif name + _PARTS in self._by_set:
                weight *= 1 - self._config.parts
            if weight > 0:
                shares[name] = weight
        return shares

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of audio in each set."""
        return {
            name: sum(self._lengths[index] for index in indices) / RATE
            for name, indices in self._by_set.items()
            if not name.endswith((_PARTS, _QUIET))
        }

    def _pick(self, pool: list[int], least: int, most: int, chance: random.Random) -> int | None:
        """Draw a clip of at most ``most`` samples, and of at least ``least`` where there is one."""
        fitting = bisect_right(pool, most, key=lambda index: self._lengths[index])
        shorter = bisect_right(pool, least, key=lambda index: self._lengths[index])
        first = shorter if shorter < fitting else 0
        return pool[chance.randrange(first, fitting)] if fitting else None

    def _compose_row(
        self, shape: Shape, speed: float, chance: random.Random
    ) -> tuple[list[Piece], int]:
        """Fill a row; returns its clips and its length, both before the change of speed."""
        samples = int(shape.samples * speed)
        lead = int(chance.uniform(0.02, 0.5) * RATE)
        tail = int(chance.uniform(0.02, 0.5) * RATE)
        # Of a set whose shortest clip is too long for the row nothing is drawn.
        room = samples - tail - lead
        shares = [
            weight * (shortest <= room)
            for weight, shortest in zip(self._weights, self._shortest, strict=True)
        ]
        if chance.random() < self._config.empty or not any(shares):
            return self._compose_nothing(samples, chance)
        name = chance.choices(self._names, shares)[0]
        pool = self._by_set[name]
        wanted = chance.uniform(0.4, 1.0) * samples
        least = 0 if name in self._joined else samples // 2
        pause = 0.12 if name.endswith(_PARTS) else 0.45
        pieces: list[Piece] = []
        end, tokens, phones = lead, 0, 0
        while (clip := self._pick(pool, least, samples - tail - end, chance)) is not None:
            tokens += len(self._tokens[clip])
            phones += len(self._phones[clip])
            if tokens > shape.tokens or phones > shape.phones:
                break
            pieces.append(Piece(clip, end))
            end += self._lengths[clip]
            if end > wanted:
                break
            end += int(chance.uniform(0.0, pause) * RATE)
            least = 0
            if chance.random() < 0.85:
                pool = self._by_speaker[(self._sets[clip], self._speakers[clip])]
            else:
                pool = self._by_set[chance.choices(self._names, self._weights)[0]]
        return pieces, min(end + tail, samples)

    def _compose_nothing(self, samples: int, chance: random.Random) -> tuple[list[Piece], int]:
        """Fill a row in which nothing is said: with what clips have around their words, or not."""
        length = chance.randrange(min(RATE // 2, samples - 1), samples)
        pieces: list[Piece] = []
        end = 0
        while self._quiet and end < length and (pieces or chance.random() < self._config.quiet):
            clip = chance.choice(self._quiet)
            if end + self._lengths[clip] > samples:
                break
            pieces.append(Piece(clip, end))
            end += self._lengths[clip]
        return pieces, max(length, end)

    def draw(self, chance: random.Random, step: int) -> Layout:
        """Draw what the batch of an update is made of; touches no device: a thread can do it."""
        config = self._config
        durations = config.durations
        if step < config.short_until:
            durations = tuple(d for d in durations if d <= config.short) or durations[:1]
        shape = config.shape(chance.choice(durations))
        speeds = [chance.uniform(*config.speed) for _ in range(shape.rows)]
        rows = [self._compose_row(shape, speed, chance) for speed in speeds]
        lengths = [
            min(shape.samples, max(RATE // 5, int(length / speed)))
            for (_, length), speed in zip(rows, speeds, strict=True)
        ]
        tokens = [[t for piece in row for t in self._tokens[piece.clip]] for row, _ in rows]
        phones = [[p for piece in row for p in self._phones[piece.clip]] for row, _ in rows]
        texts: tuple[Tensor, ...] = (
            torch.tensor(lengths),
            *_padded(tokens, shape.tokens),
            *_padded(phones, shape.phones),
        )
        if self._device.type == "cuda":
            texts = tuple(tensor.pin_memory() for tensor in texts)
        pieces = [(row, piece) for row, (found, _) in enumerate(rows) for piece in found]
        return Layout(shape, pieces, speeds, texts)

    def batch(self, chance: random.Random, step: int = 0) -> Batch:
        """Draw a batch and lay it out."""
        return self.lay_out(self.draw(chance, step))

    def lay_out(self, layout: Layout) -> Batch:
        """Put a batch on the device."""
        texts = [tensor.to(self._device, non_blocking=True) for tensor in layout.texts]
        return Batch(self._gather(layout), *texts)

    def _gather(self, layout: Layout) -> Tensor:
        """Copy clips to their places at their speeds, by linear interpolation, all at once."""
        device = self._device
        rows, width = layout.shape.rows, layout.shape.samples
        pcm = torch.zeros(rows * width, device=device)
        if not layout.pieces:
            return pcm.view(rows, width)
        table = np.empty((3, len(layout.pieces)), dtype=np.int64)
        speeds = np.array([layout.speeds[row] for row, _ in layout.pieces])
        for place, (row, piece) in enumerate(layout.pieces):
            start = int(piece.start / layout.speeds[row])
            room = int((self._lengths[piece.clip] - 2) / layout.speeds[row])
            table[:, place] = (
                self._starts[piece.clip],
                row * width + start,
                max(0, min(room, width - start)),
            )
        total = int(table[2].sum())
        source, target, counts = self._upload(torch.from_numpy(table))
        speed = self._upload(torch.from_numpy(speeds))
        owner = torch.repeat_interleave(
            torch.arange(len(layout.pieces), device=device), counts, output_size=total
        )
        offset = torch.arange(total, device=device) - (counts.cumsum(0) - counts)[owner]
        exact = offset * speed[owner]
        whole = exact.floor().long()
        left = source[owner] + whole
        part = (exact - whole).float()
        value = self._audio[left] * (1 - part) + self._audio[left + 1] * part
        pcm[target[owner] + offset] = value / 32768.0
        return pcm.view(rows, width)

    def _upload(self, tensor: Tensor) -> Tensor:
        """Bring a tensor to the device without waiting for what runs there."""
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


__all__ = ["Batch", "BatchConfig", "Corpus", "Layout", "Piece", "Shape"]
