"""Several participants in one stream, and who of them was heard when.

Pure: arrays and integers. For servers with few places: the mix of all is one stream, and each word
is put down to whoever was loudest while it was spoken. Where two speak at once, one text comes
back for both, so a stream for each is better where there is room. Positions are samples at 16 kHz
from the beginning of the meeting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from stream_client.timeline import Timeline, Utterance
from stream_protocol.messages import Final, Partial, ServerMessage, Word

FRAME = 320
"""Samples over which loudness is measured: 20 ms."""

_SPARE = 3000
"""Frames, a minute, by which there is more room than needed: a piece need not cost a copy of all
that came before it."""

_Number = TypeVar("_Number", np.int32, np.float64)


class Mixdown:
    """Mixes what comes in pieces, and remembers how loud each participant was.

    Args:
        origin: Samples of the meeting at which the mix begins.
    """

    def __init__(self, origin: int = 0) -> None:
        self.origin = origin
        self._cursor = origin
        self._waiting: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        """From the cursor on."""
        self._energies: dict[int, npt.NDArray[np.float64]] = {}
        """Of each participant, in frames; 1.5 MB an hour."""

    @property
    def cursor(self) -> int:
        """Samples of the meeting up to which the mix has been taken."""
        return self._cursor

    def add(self, participant: int, at: int, pcm: bytes) -> None:
        """Add 16 kHz mono s16le of a participant; what lies before the cursor comes too late."""
        samples = np.frombuffer(pcm, "<i2")
        samples = samples[max(0, self._cursor - at) :]
        at = max(at, self._cursor)
        first = at - self._cursor
        self._waiting = _grown(self._waiting, first + len(samples))
        self._waiting[first : first + len(samples)] += samples
        self._measure(participant, at, samples)

    def take(self, until: int) -> bytes:
        """Return the mix from the cursor up to a position; silence where nobody has spoken."""
        count = max(0, until - self._cursor)
        self._waiting = _grown(self._waiting, count)
        mixed, self._waiting = self._waiting[:count], self._waiting[count:].copy()
        self._cursor += count
        return np.clip(mixed, -32768, 32767).astype("<i2").tobytes()

    def loudest(self, start: int, end: int) -> int | None:
        """Return who was loudest between two positions; none where nobody was heard."""
        first, last = start // FRAME, -(-max(end, start + 1) // FRAME)
        heard = {who: float(levels[first:last].sum()) for who, levels in self._energies.items()}
        best = max(heard, key=lambda who: heard[who], default=None)
        return best if best is not None and heard[best] > 0 else None

    def _measure(self, participant: int, at: int, samples: npt.NDArray[np.int16]) -> None:
        if not len(samples):
            return
        frames = (np.arange(at, at + len(samples)) // FRAME).astype(np.int64)
        sums = np.bincount(frames - frames[0], np.square(samples.astype(np.float64)))
        levels = self._energies.get(participant, np.zeros(0))
        if len(levels) <= frames[-1]:
            levels = self._energies[participant] = _grown(levels, int(frames[-1]) + _SPARE)
        levels[frames[0] : frames[0] + len(sums)] += sums


def _grown(array: npt.NDArray[_Number], size: int) -> npt.NDArray[_Number]:
    return array if len(array) >= size else np.pad(array, (0, size - len(array)))


@dataclass(frozen=True, slots=True)
class Run:
    """Words of one speaker in a row."""

    participant: int | None
    """None where nobody was heard."""
    text: str
    start: int
    """Samples."""
    end: int
    """Samples."""
    words: tuple[Word, ...] = ()


def split_by_speaker(final: Final, speaker_of: Callable[[int, int], int | None]) -> list[Run]:
    """Return the runs of words of one speaker.

    Args:
        final: of the mix; without words it is a single run.
        speaker_of: who was loudest between two positions.
    """
    words = [word for word in final.words or () if word.text.strip()]
    if not words:
        owner = speaker_of(final.start, final.end)
        return [Run(owner, final.text.strip(), final.start, final.end)]
    runs = []
    for owner, group in groupby(words, key=lambda word: speaker_of(word.start, word.end)):
        own = tuple(group)
        text = " ".join(word.text.strip() for word in own)
        runs.append(Run(owner, text, own[0].start, own[-1].end, own))
    return runs


class MixReader:
    """Puts down to participants what a stream of their mix says.

    Args:
        timeline: Gets what is said.
        mixdown: Knows who was loudest when.
        first: Who speaks where nobody has been heard yet.
    """

    def __init__(self, timeline: Timeline, mixdown: Mixdown, first: int = 0) -> None:
        self._timeline = timeline
        self._mixdown = mixdown
        self._last = first
        """Who spoke last."""

    def take(self, message: ServerMessage) -> list[Utterance]:
        """Take a message of the stream; return what it says, if anything."""
        if not isinstance(message, Partial | Final):
            return []
        message = _shifted(message, self._mixdown.origin)
        # What is running may turn out to be somebody else's.
        self._timeline.interrupt(self._last)
        if isinstance(message, Partial):
            owner = self._owner(self._mixdown.loudest(message.start, message.end))
            made = [
                Utterance(
                    owner,
                    self._timeline.name(owner),
                    message.segment,
                    message.start,
                    message.end,
                    message.stable,
                    message.tentative,
                )
            ]
        else:
            made = [
                self._said(message, run) for run in split_by_speaker(message, self._mixdown.loudest)
            ]
        return [each for each in map(self._timeline.add, made) if each is not None]

    def interrupt(self) -> None:
        """Forget what is being said: the stream was resumed, and it begins anew."""
        self._timeline.interrupt(self._last)

    def _said(self, final: Final, run: Run) -> Utterance:
        owner = self._owner(run.participant)
        return Utterance(
            owner,
            self._timeline.name(owner),
            final.segment,
            run.start,
            run.end,
            run.text,
            is_final=True,
            words=run.words,
            confidence=final.confidence,
            language=final.language,
        )

    def _owner(self, participant: int | None) -> int:
        if participant is not None:
            self._last = participant
        return self._last


def _shifted(message: Partial | Final, by: int) -> Partial | Final:
    """Return a message with its positions on the meeting's clock."""
    start, end = message.start + by, message.end + by
    if isinstance(message, Partial):
        return msgspec.structs.replace(message, start=start, end=end)
    words = message.words and [
        msgspec.structs.replace(word, start=word.start + by, end=word.end + by)
        for word in message.words
    ]
    return msgspec.structs.replace(message, start=start, end=end, words=words)


__all__ = ["FRAME", "MixReader", "Mixdown", "Run", "split_by_speaker"]
