"""Where recordings can be cut between words, so that their parts make new sentences.

What lies before and behind the words, room and all, makes rows in which nothing is said.

A small corpus is soon known by heart, sentence by sentence: the network then fits its clips and
hears little else (training/LOG.md, 2026-11-27). Parts of one to five words, joined anew in every
batch, cannot be. Aligned data augmentation: Lam et al., 2021, arXiv 2104.01393.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

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
_MARGIN = int(0.4 * RATE)
"""What is left between a word and what counts as quiet: CTC marks a word within it, late."""
_LEAST = int(0.3 * RATE)
"""Of a quiet stretch."""
_LOUD = 0.3
"""Of a clip's level: what is as loud as that may be a word that its text does not have."""
LONGEST = 5
"""Words of a part, at most."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where a clip can be cut."""

    between: tuple[int, ...] = ()
    """Samples between its words; none where they are not known."""
    quiet: tuple[tuple[int, int], ...] = ()
    """First sample of each stretch in which nothing is said, and the one behind it."""


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


def _is_quiet(pcm: Samples, start: int, end: int) -> bool:
    """Return whether a stretch is long and faint enough to be taken for one without words."""
    level = float(pcm.astype(np.float64).std())
    return end - start >= _LEAST and float(pcm[start:end].astype(np.float64).std()) < _LOUD * level


def _cut(job: _Job) -> Cuts:
    """Return the cuts of a clip; nothing where its text does not fit into the frames."""
    spans = align(job.logs, [token for word in job.words for token in word])
    if not spans:
        return Cuts()
    ends = np.cumsum([len(word) for word in job.words])[:-1]
    middles = [(spans[end - 1].end + spans[end].start) * job.hop // 2 for end in ends]
    cuts = [quietest(job.pcm, middle) for middle in middles]
    in_order = all(a < b for a, b in zip(cuts, cuts[1:], strict=False))
    around = (
        (0, spans[0].start * job.hop - _MARGIN),
        (spans[-1].end * job.hop + _MARGIN, len(job.pcm)),
    )
    quiet = tuple((start, end) for start, end in around if _is_quiet(job.pcm, start, end))
    return Cuts(tuple(cuts) if in_order else (), quiet)


@torch.no_grad()
def _jobs(
    model: TranscriptionModel, tokenizer: Tokenizer, clips: Sequence[Packed], device: torch.device
) -> Iterator[tuple[int, _Job]]:
    """Let the network hear what has words, clips of like length together."""
    hop = model.samples_per_ctc_frame
    wanted = [place for place, clip in enumerate(clips) if clip.text]
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
) -> list[Cuts]:
    """Return where each clip can be cut."""
    cuts = [Cuts() for _ in clips]
    places, jobs = [], []
    for place, job in _jobs(model.eval(), tokenizer, clips, device):
        places.append(place)
        jobs.append(job)
    with ProcessPoolExecutor(workers) as pool:
        for place, found in zip(places, pool.map(_cut, jobs, chunksize=32), strict=True):
            cuts[place] = found
    return cuts


def write_cuts(path: Path, cuts: Sequence[Cuts]) -> None:
    """Write the cuts of clips, in their order."""
    path.write_text(json.dumps([asdict(each) for each in cuts]), encoding="utf-8")


def read_cuts(path: Path) -> list[Cuts]:
    """Read what :func:`write_cuts` wrote."""
    return [
        Cuts(tuple(each["between"]), tuple((start, end) for start, end in each["quiet"]))
        for each in json.loads(path.read_text(encoding="utf-8"))
    ]


def parts_of(clip: Packed, cuts: Cuts) -> list[Part]:
    """Return every run of one to five words of a clip, but not the whole of it."""
    words = clip.text.split()
    if len(cuts.between) != len(words) - 1:
        return []
    edges = [0, *cuts.between, len(clip.pcm)]
    return [
        Part(edges[first], edges[first + count], " ".join(words[first : first + count]))
        for count in range(1, min(LONGEST, len(words) - 1) + 1)
        for first in range(len(words) - count + 1)
    ]


__all__ = [
    "LONGEST",
    "Cuts",
    "Part",
    "find_cuts",
    "parts_of",
    "quietest",
    "read_cuts",
    "write_cuts",
]
