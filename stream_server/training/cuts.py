"""Where recordings can be cut between words, so that their parts make new sentences.

A small corpus is soon known by heart, sentence by sentence: the network then fits its clips and
hears little else (training/LOG.md, 2026-11-27). Parts of one to five words, joined anew in every
batch, cannot be. Aligned data augmentation: Lam et al., 2021, arXiv 2104.01393.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from stream_server.recogniser.alignment import align
from stream_server.recogniser.model import TranscriptionModel
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.pack import RATE, Packed, Samples

_ROWS = 32
_STEP = RATE // 100
_REACH = 6
"""Steps to either side of a boundary in which the quietest one is looked for."""
LONGEST = 5
"""Words of a part, at most."""


@dataclass(frozen=True, slots=True)
class _Job:
    logs: npt.NDArray[np.float32]
    words: tuple[tuple[int, ...], ...]
    pcm: Samples
    hop: int


@dataclass(frozen=True, slots=True)
class Part:
    """Some words of a clip."""

    start: int
    """Sample of the clip."""
    end: int
    text: str


def quietest(pcm: Samples, around: int) -> int:
    """Return the sample near ``around`` where least is heard."""
    places = around + _STEP * np.arange(-_REACH, _REACH + 1)
    places = places[(places >= _STEP) & (places <= len(pcm) - _STEP)]
    if not len(places):
        return around
    heard = [
        float(np.square(pcm[place - _STEP : place + _STEP].astype(np.float64)).sum())
        for place in places
    ]
    return int(places[int(np.argmin(heard))])


def _cut(job: _Job) -> list[int]:
    """Return the samples between words; nothing where the text does not fit into the frames."""
    spans = align(job.logs, [token for word in job.words for token in word])
    if spans is None:
        return []
    ends = np.cumsum([len(word) for word in job.words])[:-1]
    middles = [(spans[end - 1].end + spans[end].start) * job.hop // 2 for end in ends]
    cuts = [quietest(job.pcm, middle) for middle in middles]
    return cuts if all(a < b for a, b in zip(cuts, cuts[1:], strict=False)) else []


@torch.no_grad()
def _jobs(
    model: TranscriptionModel, tokenizer: Tokenizer, clips: Sequence[Packed], device: torch.device
) -> Iterator[tuple[int, _Job]]:
    """Let the network hear what has more than one word, clips of like length together."""
    hop = model.samples_per_ctc_frame
    wanted = [place for place, clip in enumerate(clips) if " " in clip.text]
    wanted.sort(key=lambda place: len(clips[place].pcm))
    for first in range(0, len(wanted), _ROWS):
        places = wanted[first : first + _ROWS]
        lengths = torch.tensor([len(clips[place].pcm) for place in places])
        pcm = torch.zeros(len(places), int(lengths.max()))
        for row, place in enumerate(places):
            found = torch.from_numpy(clips[place].pcm.astype(np.float32) / 32768)
            pcm[row, : len(found)] = found
        heard = model.ctc_logs(model.listen(pcm.to(device), lengths.to(device)))
        for logs, place in zip(heard, places, strict=True):
            words = tuple(tuple(tokenizer.encode(word)) for word in clips[place].text.split())
            yield place, _Job(logs, words, clips[place].pcm, hop)


def find_cuts(
    model: TranscriptionModel,
    tokenizer: Tokenizer,
    clips: Sequence[Packed],
    device: torch.device,
    workers: int,
) -> list[list[int]]:
    """Return for each clip the samples between its words; none where they are not known."""
    cuts: list[list[int]] = [[] for _ in clips]
    places, jobs = [], []
    for place, job in _jobs(model.eval(), tokenizer, clips, device):
        places.append(place)
        jobs.append(job)
    with ProcessPoolExecutor(workers) as pool:
        for place, found in zip(places, pool.map(_cut, jobs, chunksize=32), strict=True):
            cuts[place] = found
    return cuts


def parts_of(clip: Packed, cuts: Sequence[int]) -> list[Part]:
    """Return every run of one to five words of a clip, but not the whole of it."""
    words = clip.text.split()
    if len(cuts) != len(words) - 1:
        return []
    edges = [0, *cuts, len(clip.pcm)]
    return [
        Part(edges[first], edges[first + count], " ".join(words[first : first + count]))
        for count in range(1, min(LONGEST, len(words) - 1) + 1)
        for first in range(len(words) - count + 1)
    ]


__all__ = ["LONGEST", "Part", "find_cuts", "parts_of", "quietest"]
