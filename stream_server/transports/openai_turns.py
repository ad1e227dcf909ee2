"""Our session's messages as the turns of an OpenAI realtime session. Pure.

With server VAD each segment is an item of its own. With manual turns an item is what lies between
two commits, whatever segments it has; a commit is a ``flush``, and which item a segment belongs to
follows from where on the media clock it began, since segments overtake the answer to a flush.

Deltas are append-only: stable words as they become so, at the final the rest. So what a client has
put together from deltas is the transcript that completes the item, but for stable words that the
final corrected: the transcript has them as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from stream_protocol.messages import (
    CLOCK_RATE,
    Error,
    Final,
    Flush,
    Flushed,
    Partial,
    ServerMessage,
    SpeechEnded,
    SpeechStarted,
)
from stream_server.transports import openai_events as wire
from stream_server.transports.growing_text import GrowingText
from stream_server.transports.words import milliseconds, seconds

_DOUBT = CLOCK_RATE * 40 // 1000
"""Samples by which the session may have cut before the last sample of a commit: a frame and the
resampler's delay. Shorter than the shortest speech, so no segment's start lies in between."""


@dataclass(slots=True)
class _Item:
    """A turn."""

    id: str
    is_discarded: bool = False
    """Whether nothing is said of it any more."""
    is_manual: bool = False
    """Whether a commit ends it."""
    is_committed: bool = False
    words: GrowingText = field(default_factory=GrowingText)
    languages: list[str] = field(default_factory=list)
    failure: Error | None = None


@dataclass(frozen=True, slots=True)
class _Boundary:
    """A flush on its way: what began before it belongs to the item."""

    flush: str
    """Its id."""
    position: int
    """Samples received when it was asked for."""
    item: _Item
    seconds: float
    """Of audio since the boundary before."""


class Turns:
    """The items of one session.

    Args:
        session_id: goes into the ids.
        dialect: of the events about items.
        is_manual: whether the client ends turns.
    """

    def __init__(self, session_id: str, dialect: wire.Dialect, is_manual: bool) -> None:
        self.is_manual = is_manual
        self._suffix = session_id.removeprefix("sess_")
        self._dialect = dialect
        self._events = 0
        self._items = 0
        self._owners: dict[int, _Item] = {}
        """By the number of a segment that has no final yet."""
        self._boundaries: deque[_Boundary] = deque()
        self._open = self._new_item(is_manual=True)
        """What is being said now, where the client ends turns."""
        self._received = 0
        self._committed = 0
        """Samples up to the last boundary."""
        self._previous: str | None = None
        self._failure: Error | None = None

    def event_id(self) -> str:
        """Return a new id for an event."""
        self._events += 1
        return f"event_{self._suffix}_{self._events}"

    @property
    def has_audio(self) -> bool:
        """Whether audio came since the last commit or clear."""
        return self._received > self._committed

    def hear(self, position: int) -> None:
        """Take note of audio.

        Args:
            position: samples; all audio so far at 16 kHz.
        """
        self._received = position

    def commit(self) -> tuple[Flush, list[wire.Event]]:
        """End the turn; call when there is audio."""
        if not self.is_manual and not self._open.words.has_begun:
            # The running segment ends, and its own events say the rest.
            self._committed = self._received
            return Flush(), []
        item, self._open = self._open, self._new_item(is_manual=True)
        return self._bound(item), list(self._commit(item))

    def clear(self) -> tuple[Flush | None, list[wire.Event]]:
        """Forget what was not committed."""
        cleared: list[wire.Event] = [wire.Cleared(self.event_id())]
        if not self.has_audio:
            return None, cleared
        item, self._open = self._open, self._new_item(is_manual=True)
        item.is_discarded = True
        for other in self._owners.values():
            if not other.is_manual and not other.is_committed:
                other.is_discarded = True
        return self._bound(item), cleared

    def show(self, message: ServerMessage) -> list[wire.Event]:
        """Return what a message of our session means to the client."""
        match message:
            case SpeechStarted():
                return self._begin(message)
            case SpeechEnded():
                return self._end(message)
            case Partial():
                return self._grow(self._owners.get(message.segment), message)
            case Final():
                return self._finish(message)
            case Flushed():
                return self._close(message)
            case Error(fatal=True, retryable=True):
                # The close code says it, and clients connect again: LiveKit not after an error.
                return []
            case Error(fatal=True):
                return [wire.ErrorEvent(self.event_id(), error_detail(message))]
            case Error():
                self._failure = message  # of the segment whose final is next
        return []

    # --- turns --------------------------------------------------------------------------------

    def _new_item(self, *, is_manual: bool) -> _Item:
        self._items += 1
        return _Item(f"item_{self._suffix}_{self._items}", is_manual=is_manual)

    def _bound(self, item: _Item) -> Flush:
        length = seconds(self._received - self._committed)
        self._committed = self._received
        self._boundaries.append(_Boundary(item.id, self._received, item, length))
        return Flush(id=item.id)

    def _owner(self, at: int) -> _Item:
        """Return the item of speech that begins at ``at`` (samples)."""
        for boundary in self._boundaries:
            if at < boundary.position - _DOUBT:
                return boundary.item
        return self._open if self.is_manual else self._new_item(is_manual=False)

    def _begin(self, message: SpeechStarted) -> list[wire.Event]:
        item = self._owner(message.at)
        self._owners[message.segment] = item
        item.words.begin(message.segment)
        if item.is_manual:
            return []
        return [wire.SpeechStarted(self.event_id(), item.id, milliseconds(message.at))]

    def _end(self, message: SpeechEnded) -> list[wire.Event]:
        item = self._owners.get(message.segment)
        if item is None or item.is_manual or item.is_discarded:
            return []
        stopped = wire.SpeechStopped(self.event_id(), item.id, milliseconds(message.at))
        return [stopped, *self._commit(item)]

    def _commit(self, item: _Item) -> Iterator[wire.Event]:
        item.is_committed = True
        before, self._previous = self._previous, item.id
        yield wire.Committed(self.event_id(), item.id, before)
        shown = wire.Item(item.id)
        if self._dialect == "beta":
            yield wire.ItemCreated(self.event_id(), shown, before)
            return
        yield wire.ItemAdded(self.event_id(), shown, before)
        yield wire.ItemDone(self.event_id(), shown, before)

    def _grow(self, item: _Item | None, message: Partial) -> list[wire.Event]:
        return [] if item is None else self._delta(item, item.words.grow(message))

    def _delta(self, item: _Item, more: str) -> list[wire.Event]:
        if item.is_discarded or not more:
            return []
        return [wire.Delta(self.event_id(), item.id, more)]

    def _finish(self, message: Final) -> list[wire.Event]:
        item = self._owners.pop(message.segment, None)
        failure, self._failure = self._failure, None
        if item is None:
            return []
        item.failure = item.failure or failure
        events = self._delta(item, item.words.finish(message))
        if message.language and message.language not in item.languages:
            item.languages.append(message.language)
        if not item.is_manual:
            events += self._complete(item, seconds(message.end - message.start))
        return events

    def _close(self, message: Flushed) -> list[wire.Event]:
        if not self._boundaries or self._boundaries[0].flush != message.id:
            return []  # it only ended the running segment
        boundary = self._boundaries.popleft()
        return self._complete(boundary.item, boundary.seconds)

    def _complete(self, item: _Item, length: float) -> list[wire.Event]:
        if item.is_discarded:
            return []
        if item.failure is not None and not item.words.text:
            return [wire.Failed(self.event_id(), item.id, error_detail(item.failure))]
        return [
            wire.Completed(
                self.event_id(),
                item.id,
                item.words.text,
                wire.Usage(length),
                tuple(wire.LanguageCode(code) for code in item.languages),
            )
        ]


def error_detail(error: Error, event_id: str | None = None) -> wire.ErrorDetail:
    """Return an error as OpenAI shows it.

    Args:
        error: ours.
        event_id: of the client's event that it is about.
    """
    kind = "server_error" if error.retryable else "invalid_request_error"
    return wire.ErrorDetail(kind, error.code, error.message, error.field, event_id)


__all__ = ["Turns", "error_detail"]
