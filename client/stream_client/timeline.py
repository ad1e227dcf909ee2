"""Who said what when: the streams of a meeting merged onto one clock.

Pure bookkeeping: no asyncio, no sockets, no clock. Each participant has a stream of their own, so
who speaks is known and speech at the same time stays apart. A stream has no audio for when its
participant is muted or not there yet; a :class:`Placement` says where its pieces lie. All positions
that come out are samples at 16 kHz from the beginning of the meeting.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass

import msgspec

from stream_protocol.messages import CLOCK_RATE, Final, Partial, ServerMessage, Word

GAP = CLOCK_RATE
"""Samples that may be missing before a piece of audio until that counts as a pause."""
SLACK = CLOCK_RATE // 100
"""Samples that may be missing without that being filled: two clocks differ a little."""
TURN = 2 * CLOCK_RATE
"""Samples of silence between two utterances of a speaker which part them in minutes."""


class Placement:
    """Where the audio of one stream lies on the meeting's clock."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._places: list[int] = []
        """From each position of the stream on, audio lies at the place of the same index."""

    def place(self, position: int, at: int) -> int:
        """Place the next piece where it is known when it was spoken.

        Args:
            position: samples of the stream before it.
            at: samples of the meeting before it.

        Returns:
            Samples that are missing before it. Up to ``GAP`` of them belong into the stream as
            silence, and the piece after them; more are a pause, and not in the stream.
        """
        if not self._positions:
            self._anchor(position, at)
            return 0
        missing = at - self.end(position)
        if missing > GAP:
            self._anchor(position, at)
        # What overlaps, too, follows what was there before.
        return missing if missing > SLACK else 0

    def place_live(self, position: int, samples: int, now: int) -> int:
        """Place the next piece where it is only known when it came.

        Audio cannot come before it is spoken, so the earliest arrival is the best measure: a piece
        that seems to lie in the future moves back what came since the last pause.

        Args:
            position: samples of the stream before it.
            samples: that it has.
            now: samples of the meeting so far.

        Returns:
            Samples of the pause before it; 0 where there is none.
        """
        if not self._positions:
            self._anchor(position, now - samples)
            return 0
        late = now - self.end(position + samples)
        if late > GAP:
            self._anchor(position, now - samples)
            return late
        if late < 0:
            first = self._places[-1] + late
            self._places[-1] = max(first, self._last_end())
        return 0

    def start(self, position: int) -> int:
        """Return the place of what begins at a position of the stream."""
        return self._map(position, bisect_right(self._positions, position) - 1)

    def end(self, position: int) -> int:
        """Return the place of what ends at a position of the stream."""
        return self._map(position, bisect_left(self._positions, position) - 1)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the place of what lies between two positions and has no pause in it.

        A server takes a little audio from before the speech into a segment, and that may be of
        before the pause: the middle decides.
        """
        index = bisect_right(self._positions, (start + end) // 2) - 1
        first = self._positions[index] if index > 0 else start
        last = self._positions[index + 1] if index + 1 < len(self._positions) else end
        return self._map(max(start, first), index), self._map(min(end, last), index)

    def _map(self, position: int, index: int) -> int:
        if not self._positions:
            return position
        index = max(index, 0)
        return max(0, self._places[index] + position - self._positions[index])

    def _anchor(self, position: int, at: int) -> None:
        self._positions.append(position)
        self._places.append(max(0, at))

    def _last_end(self) -> int:
        """Samples at which the audio before the last pause ends."""
        if len(self._places) < 2:
            return 0
        return self._places[-2] + self._positions[-1] - self._positions[-2]


@dataclass(frozen=True, slots=True)
class Utterance:
    """What somebody says, or has said, without a long pause."""

    participant: int
    """Counts up from 0 in the order in which participants came."""
    speaker: str
    """The participant's name."""
    segment: int
    """Of the participant's stream; the final has that of its partials."""
    start: int
    """Samples."""
    end: int
    """Samples."""
    stable: str
    """Of a final, the whole text; else what does not change before it."""
    tentative: str = ""
    """May be rewritten; empty in a final."""
    is_final: bool = False
    words: tuple[Word, ...] = ()
    """Of a final; their positions are the meeting's."""
    confidence: float = 0.0
    """0 to 1, of a final."""
    language: str | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return (self.stable + self.tentative).strip()


@dataclass(frozen=True, slots=True)
class Turn:
    """What somebody says until somebody else does, or for as long as they make no long pause."""

    speaker: str
    start: int
    """Samples."""
    end: int
    """Samples."""
    text: str


class Timeline:
    """What has been said so far."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._placements: list[Placement] = []
        self._said: list[Utterance] = []
        self._running: dict[int, Utterance] = {}

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names of all who came, each once, in the order in which they came."""
        return tuple(dict.fromkeys(self._names))

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """What has been said, by when it began."""
        return tuple(self._said)

    @property
    def running(self) -> tuple[Utterance, ...]:
        """What is being said now, by when it began."""
        return tuple(sorted(self._running.values(), key=_order))

    @property
    def end(self) -> int:
        """Samples at which the last that was said ended."""
        return max((each.end for each in self._said), default=0)

    def name(self, participant: int) -> str:
        """Return a participant's name."""
        return self._names[participant]

    def join(self, name: str, placement: Placement) -> int:
        """Take a participant in, or in again; return their number."""
        self._names.append(name)
        self._placements.append(placement)
        return len(self._names) - 1

    def take(self, participant: int, message: ServerMessage) -> Utterance | None:
        """Take a message of a participant's stream; return what it says, if anything.

        A final without text takes back what was running, so it is returned as well.
        """
        placement, name = self._placements[participant], self._names[participant]
        if not isinstance(message, Partial | Final):
            return None
        start, end = placement.span(message.start, message.end)
        if isinstance(message, Partial):
            stable, tentative = message.stable, message.tentative
            running = Utterance(participant, name, message.segment, start, end, stable, tentative)
            return self.add(running)
        words = []
        for word in message.words or ():
            first, last = placement.span(word.start, word.end)
            first, last = max(first, start), max(min(last, end), start)
            words.append(msgspec.structs.replace(word, start=min(first, last), end=last))
        said = Utterance(
            participant,
            name,
            message.segment,
            start,
            end,
            message.text,
            is_final=True,
            words=tuple(words),
            confidence=message.confidence,
            language=message.language,
        )
        return self.add(said)

    def add(self, utterance: Utterance) -> Utterance | None:
        """Take an utterance; return it if it is news."""
        if not utterance.is_final:
            if not utterance.text:
                return None
            self._running[utterance.participant] = utterance
            return utterance
        was_running = self._running.pop(utterance.participant, None) is not None
        if utterance.text:
            insort(self._said, utterance, key=_order)
        return utterance if utterance.text or was_running else None

    def interrupt(self, participant: int) -> None:
        """Forget what a participant is saying: their stream was resumed, and it begins anew."""
        self._running.pop(participant, None)

    def turns(self) -> list[Turn]:
        """Return what has been said as people take turns."""
        turns: list[Turn] = []
        for each in self._said:
            last = turns[-1] if turns else None
            if last and last.speaker == each.speaker and each.start - last.end <= TURN:
                text = f"{last.text} {each.text}"
                turns[-1] = Turn(last.speaker, last.start, max(last.end, each.end), text)
            else:
                turns.append(Turn(each.speaker, each.start, each.end, each.text))
        return turns


def _order(utterance: Utterance) -> tuple[int, int]:
    return utterance.start, utterance.participant


__all__ = ["GAP", "SLACK", "TURN", "Placement", "Timeline", "Turn", "Utterance"]
