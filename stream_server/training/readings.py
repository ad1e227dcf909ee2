"""Transcripts by reading: which stretches of a recording bear out what was written for it.

A reading is text that was written from what recognisers heard, mostly rightly: misspelt words are
made those of the sentence, and ``~`` stands where nothing could be made out. A network that never
heard the voice in training is then asked: the text is aligned to its CTC, and a word is in doubt
that costs much more than what the network would have written there. What is in doubt or not read
is cut off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stream_server.errors import ConfigError
from stream_server.recogniser.alignment import align
from stream_server.recogniser.draft import Logs
from stream_server.recogniser.model import TranscriptionModel
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.cuts import quietest
from stream_server.training.pack import RATE, Samples

UNREAD = "~"
"""Stands in a reading for what could not be made out."""
_SILENCE = RATE // 5
"""Samples put around a clip, so that its edges are heard as in service."""
_ANYTHING = -0.3
"""Nats a frame by which the stand-in for what was not read is less likely than the best path: a
word that was read is taken for itself where both would do."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What is kept of a reading.

    Of held-out clips of LJ Speech, philipp, kathleen and speechocean762, 0.2, 0.4, 0.0 and 1.1 % of
    the true words are over a doubt of 8 nats, and 95, 91, 90 and 84 % of those that were put in the
    place of others; of words put between others 96, 92, 93 and 94 %. A word that is left out shows
    worse: in the words beside it, 28 to 45 %.
    """

    doubt: float = 8.0
    """Nats a token that a word may cost more than the best path."""
    mean: float = 2.5
    """The same for the mean of a stretch's words."""
    shortest: float = 2.0
    """Seconds of a stretch."""
    longest: float = 13.0
    """Seconds; what is longer is divided at its longest pause."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a reading, aligned."""

    text: str
    start: int
    """First CTC frame."""
    end: int
    """Frame after the last."""
    doubt: float
    """Nats a token; infinite of what was not read."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a clip that has its text."""

    start: int
    """Sample of the clip."""
    end: int
    text: str


def read_readings(path: Path) -> dict[str, list[str]]:
    """Read lines of a clip's name and its words, as LibriSpeech has its transcripts.

    Raises:
        ConfigError: there is no such file, or it has a clip twice.
    """
    if not path.is_file():
        raise ConfigError("readings", str(path), "a file that is there")
    readings: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, *words = line.split()
        if name in readings:
            raise ConfigError("readings", name, "each clip once")
        readings[name] = words
    return readings


def read_entries(folder: Path) -> dict[str, dict[str, object]]:
    """Return the lines of a set's manifest by the name of the clip, without its suffix.

    Raises:
        ConfigError: there is no manifest.
    """
    path = folder / "manifest.jsonl"
    if not path.is_file():
        raise ConfigError("speech", str(folder), "the folder of a set, with its manifest.jsonl")
    entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {Path(entry["audio"]).stem: entry for entry in entries}


def align_words(logs: Logs, words: Sequence[str], tokenizer: Tokenizer) -> list[Word]:
    """Find where the words of a reading were said, and what each costs.

    Args:
        logs: [frames, vocabulary], log-probabilities; blank is token 0.
        words: plain ones and :data:`UNREAD`.
        tokenizer: of the network.

    Returns:
        All of them, in order; none where they do not fit into the frames.
    """
    best = logs.max(axis=1)
    anything = logs.shape[1]
    heard = np.concatenate([logs, best[:, None] + np.float32(_ANYTHING)], axis=1)
    tokens = [[anything] if word == UNREAD else tokenizer.encode(word) for word in words]
    spans = align(heard, [token for each in tokens for token in each])
    if not spans:
        return []
    ends = np.cumsum([len(each) for each in tokens]).tolist()
    found = []
    for word, each, end in zip(words, tokens, ends, strict=True):
        own = spans[end - len(each) : end]
        # A word answers for the frames up to the middle of the gaps beside it.
        first = 0 if own[0] is spans[0] else (spans[end - len(each) - 1].end + own[0].start) // 2
        last = len(best) if own[-1] is spans[-1] else (own[-1].end + spans[end].start + 1) // 2
        path = logs[:, 0].copy()
        for token, span in zip(each, own, strict=True):
            path[span.start : span.end] = heard[span.start : span.end, token]
        doubt = float((best - path)[first:last].sum()) / len(each)
        doubt = np.inf if word == UNREAD else doubt
        found.append(Word(word, own[0].start, own[-1].end, doubt))
    return found


def _runs(words: Sequence[Word], doubt: float) -> list[tuple[int, int]]:
    """Return first and end of every run of words that are not in doubt."""
    runs, first = [], 0
    for place, word in enumerate([*words, Word(UNREAD, 0, 0, np.inf)]):
        if word.doubt > doubt:
            if place > first:
                runs.append((first, place))
            first = place + 1
    return runs


def _divide(words: Sequence[Word], edges: Sequence[int], run: tuple[int, int], trust: Trust) -> int:
    """Return the word before which a run is divided: where the pause is longest."""
    first, end = run
    room = int(trust.shortest * RATE)
    places = [
        place
        for place in range(first + 1, end)
        if edges[place] - edges[first] >= room and edges[end] - edges[place] >= room
    ]
    return max(places, key=lambda place: words[place].start - words[place - 1].end, default=end)


def stretches(words: Sequence[Word], pcm: Samples, hop: int, trust: Trust) -> list[Stretch]:
    """Return the parts of a clip whose text is trusted.

    Args:
        words: of the reading, aligned to ``pcm``.
        pcm: the clip.
        hop: samples of a CTC frame.
        trust: what is kept.
    """
    middles = [(a.end + b.start) * hop // 2 for a, b in zip(words, words[1:], strict=False)]
    edges = [0, *(quietest(pcm, middle) for middle in middles), len(pcm)]
    runs = _runs(words, trust.doubt)
    kept = []
    while runs:
        first, end = runs.pop(0)
        seconds = (edges[end] - edges[first]) / RATE
        if seconds > trust.longest and (place := _divide(words, edges, (first, end), trust)) < end:
            runs[:0] = [(first, place), (place, end)]
            continue
        mean = float(np.mean([word.doubt for word in words[first:end]]))
        if trust.shortest <= seconds <= trust.longest and mean <= trust.mean:
            text = " ".join(word.text for word in words[first:end])
            kept.append(Stretch(edges[first], edges[end], text))
    return kept


class Verifier:
    """Asks a network which stretches bear out their readings."""

    def __init__(self, model: TranscriptionModel, tokenizer: Tokenizer, trust: Trust) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._trust = trust

    @torch.inference_mode()
    def words(self, pcm: Samples, reading: Sequence[str]) -> list[Word]:
        """Align a reading to a clip with silence around it."""
        padded = torch.from_numpy(np.pad(pcm.astype(np.float32) / 32768, _SILENCE))
        encoded = self._model.listen(padded[None], torch.tensor([len(padded)]))
        (logs,) = self._model.ctc_logs(encoded)
        return align_words(logs.astype(np.float32), reading, self._tokenizer)

    def stretches(self, pcm: Samples, words: Sequence[Word]) -> list[Stretch]:
        """Return what is kept of a clip whose words :meth:`words` aligned."""
        padded = np.pad(pcm, _SILENCE)
        found = stretches(words, padded, self._model.samples_per_ctc_frame, self._trust)
        kept = []
        for each in found:
            start = max(0, each.start - _SILENCE)
            end = min(len(pcm), each.end - _SILENCE)
            if end - start >= self._trust.shortest * RATE:
                kept.append(Stretch(start, end, each.text))
        return kept


def mark(words: Sequence[Word], trust: Trust) -> str:
    """Return a reading in which words in doubt are in brackets, with what they cost."""
    return " ".join(
        word.text
        if word.text == UNREAD or word.doubt <= trust.doubt
        else f"[{word.text} {word.doubt:.1f}]"
        for word in words
    )


def manifest_line(entry: Mapping[str, object], stretch: Stretch) -> str:
    """Return a line of a manifest: that of the whole clip, for a stretch of it."""
    seconds = round((stretch.end - stretch.start) / RATE, 3)
    span = {"start": stretch.start, "end": stretch.end, "duration": seconds}
    return json.dumps({**entry, "text": stretch.text, **span})


__all__ = [
    "UNREAD",
    "Stretch",
    "Trust",
    "Verifier",
    "Word",
    "align_words",
    "manifest_line",
    "mark",
    "read_entries",
    "read_readings",
    "stretches",
]
