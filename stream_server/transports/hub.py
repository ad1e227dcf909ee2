"""What sessions have said, for those who watch: a bounded log of each, whatever its transport.

A viewer is a place in a log and nothing else, so viewers cost no memory, and one that is slow
holds nobody up: what it has not read is replaced (an older partial by a newer one) or, at the bound
of the log, forgotten, and then it is dropped. Logs of sessions that are over stay for a while.
Belongs to one event loop; knows nothing of sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec

from stream_protocol import codec
from stream_protocol.messages import Ack, Final, Partial, Ready, ServerMessage, Trace
from stream_server.errors import LimitReached

KEPT_SECONDS = 600.0
"""How long the log of a session that is over can be read."""
_MAX_ENDED = 256
"""Logs of sessions that are over, at most; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Event:
    """A message of a session, with its place in the log."""

    number: int
    """From 1 up; not every number is there, since events are replaced."""
    message: ServerMessage
    text: str
    """The message as it is on the wire."""


class SessionLog:
    """The events of one session.

    Args:
        session: its name.
        max_events: events that are kept.
    """

    def __init__(self, session: str, max_events: int) -> None:
        self.session = session
        self._max = max_events
        self._events: dict[int, Event] = {}
        self._newest: dict[tuple[type, int], int] = {}
        """Partial or Trace, and segment -> the number of the newest."""
        self._last = 0
        self._forgotten = 0
        """The newest number that was lost to the bound."""
        self._is_over = False
        self._changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._is_over

    @property
    def last(self) -> int:
        """The newest number."""
        return self._last

    def publish(self, message: ServerMessage) -> None:
        """Add an event in the place of those that it makes useless."""
        if self._is_over or isinstance(message, Ack):
            return
        if isinstance(message, Ready):  # carrying on the stream is its client's right alone
            message = msgspec.structs.replace(message, resume_token="")
        if isinstance(message, Partial | Final):
            self._replace(Partial, message.segment)
        if isinstance(message, Trace):
            self._replace(Trace, message.segment)
        self._last += 1
        if isinstance(message, Partial | Trace):
            self._newest[type(message), message.segment] = self._last
        self._events[self._last] = Event(self._last, message, codec.encode(message))
        while len(self._events) > self._max:
            self._forgotten = next(iter(self._events))
            del self._events[self._forgotten]
        self._wake()

    def close(self) -> None:
        """Say that nothing more will come."""
        self._is_over = True
        self._wake()

    def finals(self) -> list[Final]:
        """Return the finals that are kept."""
        messages = (event.message for event in self._events.values())
        return [message for message in messages if isinstance(message, Final)]

    def after(self, number: int) -> list[Event]:
        """Return the events with a higher number, oldest first."""
        found = []
        for event in reversed(self._events.values()):  # most viewers are near the end
            if event.number <= number:
                break
            found.append(event)
        return found[::-1]

    async def follow(
        self, after: int = 0, quiet_seconds: float | None = None
    ) -> AsyncIterator[list[Event]]:
        """Yield what is there, then what comes, until the session is over.

        Args:
            after: number of the last event that the viewer has.
            quiet_seconds: after which, where nothing comes, an empty list is given.

        Raises:
            LimitReached: the viewer was so slow that events it had not seen are gone.
        """
        seen = max(after, self._forgotten)
        while True:
            changed = self._changed
            if self._forgotten > seen:
                raise LimitReached(
                    f"more than {self._max} events came while this viewer took none; join again"
                )
            if events := self.after(seen):
                seen = events[-1].number
                yield events
            elif self._is_over:
                return
            else:
                try:
                    async with asyncio.timeout(quiet_seconds):
                        await changed.wait()
                except TimeoutError:
                    yield []

    def _replace(self, kind: type, segment: int) -> None:
        self._events.pop(self._newest.pop((kind, segment), 0), None)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Hub:
    """The logs of a server: an ``Audience`` of its sessions.

    Args:
        max_events: events of a session that are kept.
        clock: seconds; for tests.
    """

    def __init__(self, max_events: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max = max_events
        self._clock = clock
        self._running: dict[str, SessionLog] = {}
        self._ended: dict[str, tuple[float, SessionLog]] = {}
        """With the time of the end, oldest first."""
        self._names: dict[tuple[str, str], str] = {}
        """Name -> the session that had it last."""

    def open(self, session_id: str, name: str | None = None, owner: str = "") -> SessionLog:
        """Return the log of a session, made if it is not there.

        Args:
            session_id: of the session.
            name: under which its owner's viewers find it as well, until another session of the
                same owner takes the name.
            owner: whose session it is; each has names of its own.
        """
        if name is not None:
            self._names[owner, name] = session_id
        if session_id not in self._running:
            self._running[session_id] = SessionLog(session_id, self._max)
        return self._running[session_id]

    def publish(self, session_id: str, message: ServerMessage) -> None:
        """Take what a session says."""
        self.open(session_id).publish(message)

    def leave(self, session_id: str) -> None:
        """Take note that a session is over; a second time does no harm."""
        log = self._running.pop(session_id, None)
        if log is None:
            return
        log.close()
        self._ended[session_id] = (self._clock(), log)
        self._forget()

    def find(self, name: str, owner: str = "") -> SessionLog | None:
        """Return the log of a session by its id, whosever it is, or else by its name.

        None where there is no such session, or it has been over for too long.

        Args:
            name: id, or the name that its owner gave it.
            owner: whose names count.
        """
        self._forget()
        for session_id in (name, self._names.get((owner, name), "")):
            if session_id in self._running:
                return self._running[session_id]
            if session_id in self._ended:
                return self._ended[session_id][1]
        return None

    def close(self) -> None:
        """End every log, so that every viewer leaves."""
        for session_id in tuple(self._running):
            self.leave(session_id)

    def _forget(self) -> None:
        """Drop logs that were kept long enough."""
        oldest = self._clock() - KEPT_SECONDS
        while self._ended:
            session_id, (ended, _) = next(iter(self._ended.items()))
            if ended >= oldest and len(self._ended) <= _MAX_ENDED:
                return
            del self._ended[session_id]
            for key in [key for key, value in self._names.items() if value == session_id]:
                del self._names[key]


__all__ = ["KEPT_SECONDS", "Event", "Hub", "SessionLog"]
