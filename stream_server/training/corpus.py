"""Training batches: clips laid end to end in rows of like length, on the training device.

All audio lies on the device as one int16 vector; a batch is gathered from it there, so the loop
does no audio work on the CPU. A row is one clip or several with pauses between them, at a random
speed, with silence before and after, as the segmenter cuts speech in service.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.pack import RATE, Packed

LETTERS = " abcdefghijklmnopqrstuvwxyz'"
"""Letter i is class i + 1; class 0 is the blank."""


def spell(text: str) -> list[int]:
    """Return the classes of the letters of a plain text."""
    return [LETTERS.index(letter) + 1 for letter in text]


def _padded(lists: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    out = torch.zeros(len(lists), max(1, max(map(len, lists))), dtype=torch.long)
    for row, values in enumerate(lists):
        out[row, : len(values)] = torch.tensor(values, dtype=torch.long)
    return out.to(device), torch.tensor([len(values) for values in lists], device=device)


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
    empty: float = 0.02
    """Share of rows in which nothing is said."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A clip in a row."""

    clip: int
    start: int
    """Sample of the row where it begins."""


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
    letters: Tensor
    """[rows, letters], padded with 0: the text as :data:`LETTERS`, for the encoder's own CTC."""
    letter_lengths: Tensor
    """[rows]."""


class Corpus:
    """Clips on a device, by set and length."""

    def __init__(
        self,
        clips: Sequence[Packed],
        tokenizer: Tokenizer,
        weights: Mapping[str, float],
        config: BatchConfig,
        device: torch.device,
    ) -> None:
        self._config = config
        self._device = device
        self._lengths = [len(clip.pcm) for clip in clips]
        starts = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        self._starts = starts.tolist()
        self._audio = torch.empty(int(starts[-1]), dtype=torch.int16, device=device)
        for clip, start in zip(clips, self._starts, strict=False):
            self._audio[start : start + len(clip.pcm)] = torch.from_numpy(clip.pcm).to(device)
        self._texts = [clip.text for clip in clips]
        self._tokens = [tokenizer.encode(clip.text) for clip in clips]
        self._speakers = [clip.speaker for clip in clips]
        self._sets = [clip.set for clip in clips]
        self._by_set: dict[str, list[int]] = {}
        self._by_speaker: dict[tuple[str, str], list[int]] = {}
        for index in sorted(range(len(clips)), key=lambda index: self._lengths[index]):
            self._by_set.setdefault(clips[index].set, []).append(index)
            self._by_speaker.setdefault((clips[index].set, clips[index].speaker), []).append(index)
        self._names = [name for name in self._by_set if weights.get(name, 0) > 0]
        self._weights = [weights[name] for name in self._names]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of audio in each set."""
        return {
            name: sum(self._lengths[index] for index in indices) / RATE
            for name, indices in self._by_set.items()
        }

    def _pick(self, pool: list[int], least: int, most: int, chance: random.Random) -> int | None:
        """Draw a clip of at most ``most`` samples, and of at least ``least`` where there is one."""
        fitting = bisect_right(pool, most, key=lambda index: self._lengths[index])
        shorter = bisect_right(pool, least, key=lambda index: self._lengths[index])
        first = shorter if shorter < fitting else 0
        return pool[chance.randrange(first, fitting)] if fitting else None

    def _compose_row(self, samples: int, chance: random.Random) -> tuple[list[Piece], int]:
        """Fill a row; returns its clips and its length, both before the change of speed."""
        lead = int(chance.uniform(0.02, 0.5) * RATE)
        tail = int(chance.uniform(0.02, 0.5) * RATE)
        if chance.random() < self._config.empty:
            return [], chance.randrange(RATE // 2, samples)
        name = chance.choices(self._names, self._weights)[0]
        pool = self._by_set[name]
        wanted = chance.uniform(0.4, 1.0) * samples
        least = 0 if name in self._config.joined else samples // 2
        pieces: list[Piece] = []
        end = lead
        while (clip := self._pick(pool, least, samples - tail - end, chance)) is not None:
            pieces.append(Piece(clip, end))
            end += self._lengths[clip]
            if end > wanted:
                break
            end += int(chance.uniform(0.0, 0.45) * RATE)
            least = 0
            if chance.random() < 0.85:
                pool = self._by_speaker[(self._sets[clip], self._speakers[clip])]
            else:
                pool = self._by_set[chance.choices(self._names, self._weights)[0]]
        return pieces, min(end + tail, samples)

    def batch(self, chance: random.Random) -> Batch:
        """Draw a batch."""
        config = self._config
        duration = chance.choice(config.durations)
        rows = max(1, int(config.seconds / duration))
        speeds = [chance.uniform(*config.speed) for _ in range(rows)]
        layout = [self._compose_row(int(duration * RATE * speed), chance) for speed in speeds]
        lengths = [
            max(RATE // 5, int(length / speed))
            for (_, length), speed in zip(layout, speeds, strict=True)
        ]
        tokens = [[t for piece in row for t in self._tokens[piece.clip]] for row, _ in layout]
        letters = [spell(" ".join(self._texts[piece.clip] for piece in row)) for row, _ in layout]
        return Batch(
            self._gather([pieces for pieces, _ in layout], speeds, max(lengths)),
            torch.tensor(lengths, device=self._device),
            *_padded(tokens, self._device),
            *_padded(letters, self._device),
        )

    def _gather(self, layout: list[list[Piece]], speeds: list[float], width: int) -> Tensor:
        """Copy clips to their places at their speeds, by linear interpolation, all at once."""
        device = self._device
        pieces = [(row, piece) for row, row_pieces in enumerate(layout) for piece in row_pieces]
        rows = len(layout)
        pcm = torch.zeros(rows * width, device=device)
        if not pieces:
            return pcm.view(rows, width)
        speed = torch.tensor([speeds[row] for row, _ in pieces], dtype=torch.float64, device=device)
        source = torch.tensor([self._starts[piece.clip] for _, piece in pieces], device=device)
        target = torch.tensor(
            [row * width + int(piece.start / speeds[row]) for row, piece in pieces], device=device
        )
        counts_list = [
            min(
                int((self._lengths[piece.clip] - 2) / speeds[row]),
                width - int(piece.start / speeds[row]),
            )
            for row, piece in pieces
        ]
        counts = torch.tensor(counts_list, device=device)
        owner = torch.repeat_interleave(
            torch.arange(len(pieces), device=device), counts, output_size=sum(counts_list)
        )
        offset = torch.arange(sum(counts_list), device=device) - (counts.cumsum(0) - counts)[owner]
        exact = offset * speed[owner]
        whole = exact.floor().long()
        left = source[owner] + whole
        part = (exact - whole).float()
        value = self._audio[left] * (1 - part) + self._audio[left + 1] * part
        pcm[target[owner] + offset] = value / 32768.0
        return pcm.view(rows, width)


__all__ = ["LETTERS", "Batch", "BatchConfig", "Corpus", "Piece", "spell"]
