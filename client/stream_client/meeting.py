"""Meetings: ``async with Meeting(url) as meeting``, add participants, send each one's audio.

Each participant has a stream of their own, which survives breaks as any does; what comes back is
merged by ``timeline``. With ``mixed`` there is one stream for all (``mixdown``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from stream_client.client import RECONNECTED, Reconnect, Stream, connect
from stream_client.errors import ClientError
from stream_client.mixdown import Mixdown, MixReader
from stream_client.timeline import GAP, Placement, Timeline, Utterance
from stream_protocol.errors import LocalProtocolError
from stream_protocol.messages import CLOCK_RATE, Notice, Start

QUIET_SECONDS = 1.0
"""Without live audio of somebody after which what they said is finalised."""
MIX_DELAY = CLOCK_RATE // 4
"""Samples by which a mix lags behind the clock, so that pieces that come late are in it."""
MIX_AHEAD = 5 * CLOCK_RATE
"""Samples of a recording that may wait for the others, in a mix."""

_TICK_SECONDS = 0.1
_KEEP_ALIVE = 3
"""Times within the server's idle timeout that somebody silent is heard of."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Whose stream failed, and how."""

    speaker: str
    error: ClientError


class Meeting:
    """People who speak, each on a track of their own, on one clock.

    Args:
        url: WebSocket URL of the server, ``ws://127.0.0.1:8000/v1/stream``.
        start: What is wanted; the audio is 16 kHz mono s16le. Without it word times are asked for.
        api_key: Sent as ``Authorization: Bearer``.
        reconnect: How each stream goes on after a break.
        mixed: Whether all go into one stream, for servers with few places.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        url: str,
        start: Start | None = None,
        *,
        api_key: str | None = None,
        reconnect: Reconnect | None = Reconnect(),  # noqa: B008 - immutable
        mixed: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        start = start or Start(words=True)
        if (start.encoding, start.sample_rate, start.channels) != ("pcm_s16le", CLOCK_RATE, 1):
            raise ValueError("the audio of a meeting is 16 kHz mono s16le")
        self._open: Callable[[], connect] = lambda: connect(
            url, start, api_key=api_key, reconnect=reconnect
        )
        self._clock = clock
        self._began = clock()
        self._mix = _Mix() if mixed else None
        self._streams = contextlib.AsyncExitStack()
        self._readers: set[asyncio.Task[None]] = set()
        self._helpers: set[asyncio.Task[None]] = set()
        self._updates = _Updates()
        self._participants: list[Participant] = []
        self._is_ended = False
        self.timeline = Timeline()
        """All that has been said so far."""
        self.failures: list[Failure] = []
        """Streams that failed; the others go on."""

    async def __aenter__(self) -> Meeting:
        self._began = self._clock()
        if self._mix is None:
            _start(self._watch(), self._helpers)
            return self
        stream = await self._streams.enter_async_context(self._open())
        reader = MixReader(self.timeline, self._mix.down)
        _start(self._mix.pump(stream, lambda: self.now), self._helpers)
        _start(self._read_mix(stream, reader), self._readers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = [*self._readers, *self._helpers]
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await self._streams.aclose()
        for each in ended:
            if isinstance(each, Exception):
                raise each  # a defect: what a stream can do wrong is among the failures

    @property
    def now(self) -> int:
        """Samples since the meeting began."""
        return round(self.seconds * CLOCK_RATE)

    @property
    def seconds(self) -> float:
        """Seconds since the meeting began."""
        return self._clock() - self._began

    async def add(self, name: str, *, at: int | None = None) -> Participant:
        """Take somebody in, or in again; any number may have the same name.

        Args:
            name: Stands before what they say.
            at: Samples of the meeting at which a recording begins: its audio goes on from there
                without a gap, at any pace. None is live audio.

        Raises:
            ClientError: The server has no stream for them.
            LocalProtocolError: After :meth:`end`.
        """
        if self._is_ended:
            raise LocalProtocolError("the meeting has ended; nobody can join any more")
        placement = Placement()
        if self._mix is not None:
            number = self.timeline.join(name, placement)
            outlet: _Outlet = self._mix.open(number, placement, at)
        else:
            stream = await self._streams.enter_async_context(self._open())
            number = self.timeline.join(name, placement)
            _start(self._read(stream, number), self._readers)
            outlet = _OwnStream(stream)
        participant = Participant(self, name, placement, outlet, at)
        self._participants.append(participant)
        return participant

    async def end(self) -> None:
        """Say that nobody speaks any more. Keep iterating: the last finals are still to come."""
        self._is_ended = True
        for participant in self._participants:
            await participant.leave()
        if self._mix is not None:
            self._mix.end()
        _start(self._close_updates(), self._helpers)

    def note_failure(self, speaker: str, error: ClientError) -> None:
        """Put down that somebody is not heard; the others go on."""
        self.failures.append(Failure(speaker, error))

    def __aiter__(self) -> AsyncIterator[Utterance]:
        return self

    async def __anext__(self) -> Utterance:
        """Return what is said next; ends after :meth:`end`, with the last final.

        Where the caller is slower than people speak, an utterance that is not final is replaced by
        its successor; nothing else is left out.
        """
        update = await self._updates.get()
        if update is None:
            raise StopAsyncIteration
        return update

    async def _read(self, stream: Stream, number: int) -> None:
        try:
            async for message in stream:
                if isinstance(message, Notice) and message.code == RECONNECTED:
                    self.timeline.interrupt(number)
                update = self.timeline.take(number, message)
                if update is not None:
                    self._updates.put(update)
        except ClientError as error:
            self.note_failure(self.timeline.name(number), error)

    async def _read_mix(self, stream: Stream, reader: MixReader) -> None:
        try:
            async for message in stream:
                if isinstance(message, Notice) and message.code == RECONNECTED:
                    reader.interrupt()
                for update in reader.take(message):
                    self._updates.put(update)
        except ClientError as error:
            self.note_failure(", ".join(self.timeline.speakers), error)

    async def _watch(self) -> None:
        """Finalise what somebody said who went silent, and keep idle streams open."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            for participant in self._participants:
                with contextlib.suppress(ClientError):  # its reader reports that
                    await participant.rest()

    async def _close_updates(self) -> None:
        if self._readers:
            await asyncio.wait(self._readers)
        self._updates.close()


class Participant:
    """Somebody in a meeting. Made by :meth:`Meeting.add`."""

    def __init__(
        self,
        meeting: Meeting,
        name: str,
        placement: Placement,
        outlet: _Outlet,
        at: int | None,
    ) -> None:
        self._meeting = meeting
        self._placement = placement
        self._outlet = outlet
        self._is_live = at is None
        self._is_sending = False
        self._is_heard = False
        self._has_left = False
        self._last = meeting.seconds
        """When there was last something for the server."""
        if at is not None:
            placement.place(0, at)
        self.name = name

    async def send(self, pcm: bytes, *, at: int | None = None) -> None:
        """Send 16 kHz mono s16le, in pieces of any length; silence may be left out.

        Args:
            pcm: Live audio as it comes, or the next piece of a recording.
            at: Of live audio, samples of the meeting at which it was spoken, where a track's own
                time stamps tell that better than when it comes.

        Raises:
            ClientError: The stream has failed.
            LocalProtocolError: After :meth:`leave`.
        """
        if self._has_left:
            raise LocalProtocolError(f"{self.name} has left; add them again")
        position, missing = self._outlet.position, 0
        if self._is_live and at is None:
            missing = self._placement.place_live(position, len(pcm) // 2, self._meeting.now)
        elif at is not None:
            missing = self._placement.place(position, at)
        self._is_sending = True
        try:
            if missing > GAP:
                await self._outlet.pause()
            elif missing:
                pcm = bytes(2 * missing) + pcm
            await self._outlet.write(pcm)
        finally:
            self._is_sending = False
        self._is_heard, self._last = True, self._meeting.seconds

    async def leave(self) -> None:
        """Say that no more audio of theirs follows; their last finals still come."""
        if not self._has_left:
            self._has_left = True
            with contextlib.suppress(ClientError):  # the reader of a failed stream reports that
                await self._outlet.finish()

    async def rest(self) -> None:
        """Take note that time passes. Called by the meeting."""
        if self._has_left or self._is_sending:
            return
        now = self._meeting.seconds
        silent = now - self._last
        is_quiet = self._is_live and self._is_heard and silent >= QUIET_SECONDS
        if is_quiet or silent >= self._outlet.patience:
            self._is_heard, self._last = False, now
            await self._outlet.pause()


class _Outlet(Protocol):
    """Where a participant's audio goes."""

    @property
    def position(self) -> int:
        """Samples written so far."""

    @property
    def patience(self) -> float:
        """Seconds of silence after which it should hear something."""

    async def write(self, pcm: bytes) -> None:
        """Take audio."""

    async def pause(self) -> None:
        """Take note that nobody speaks."""

    async def finish(self) -> None:
        """Take note that no more follows."""


class _OwnStream:
    """A stream for one participant."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def position(self) -> int:
        return self._stream.position

    @property
    def patience(self) -> float:
        idle_ms = self._stream.ready.limits.idle_timeout_ms
        return idle_ms / 1000 / _KEEP_ALIVE if idle_ms else float("inf")

    async def write(self, pcm: bytes) -> None:
        await self._stream.send(pcm)

    async def pause(self) -> None:
        await self._stream.flush()

    async def finish(self) -> None:
        await self._stream.stop()


class _Mix:
    """One stream for all: mixes what the participants write, at the pace of the meeting."""

    def __init__(self) -> None:
        self.down = Mixdown()
        self._tracks: list[_Track] = []
        self._has_room = asyncio.Condition()
        self._is_ended = False
        self._is_broken = False

    def open(self, number: int, placement: Placement, at: int | None) -> _Track:
        """Return where a participant writes."""
        track = _Track(self, number, placement, at)
        self._tracks.append(track)
        return track

    def end(self) -> None:
        """Take note that nobody writes any more."""
        self._is_ended = True

    async def pump(self, stream: Stream, now: Callable[[], int]) -> None:
        """Send the mix as it grows, then stop."""
        try:
            while not self._is_ended:
                await stream.send(self.down.take(self._until(now())))
                async with self._has_room:
                    self._has_room.notify_all()
                await asyncio.sleep(_TICK_SECONDS)
            await stream.send(self.down.take(max((t.end for t in self._tracks), default=0)))
            await stream.stop()
        except ClientError:
            self._is_broken = True  # its reader reports that
            async with self._has_room:
                self._has_room.notify_all()

    async def wait_for_room(self, end: int) -> None:
        """Return when a recording that reaches up to ``end`` is not too far ahead."""
        async with self._has_room:
            await self._has_room.wait_for(
                lambda: self._is_broken or end - self.down.cursor <= MIX_AHEAD
            )

    def _until(self, now: int) -> int:
        """Samples up to which everybody has said what they will say."""
        recordings = [t.end for t in self._tracks if t.is_recording and not t.is_finished]
        is_live = not any(t.is_recording for t in self._tracks) or any(
            not t.is_recording and not t.is_finished for t in self._tracks
        )
        limits = [*recordings, *([now - MIX_DELAY] if is_live else [])]
        if limits:
            return min(limits)
        return max(t.end for t in self._tracks)


class _Track:
    """A participant's part of a mix."""

    patience = float("inf")

    def __init__(self, mix: _Mix, number: int, placement: Placement, at: int | None) -> None:
        self._mix = mix
        self._number = number
        self._placement = placement
        self.is_recording = at is not None
        self.is_finished = False
        self.position = 0
        self.end = at or 0
        """Samples of the meeting at which what was written ends."""

    async def write(self, pcm: bytes) -> None:
        self._mix.down.add(self._number, self._placement.start(self.position), pcm)
        self.position += len(pcm) // 2
        self.end = self._placement.end(self.position)
        if self.is_recording:
            await self._mix.wait_for_room(self.end)

    async def pause(self) -> None:
        """Do nothing: the mix goes on with silence."""

    async def finish(self) -> None:
        self.is_finished = True


class _Updates:
    """What the caller has not read yet: of what is running the newest only."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[object, Utterance] = OrderedDict()
        self._count = 0
        self._changed = asyncio.Event()
        self._is_closed = False

    def put(self, update: Utterance) -> None:
        self._count += 1
        running = (update.participant, update.segment)
        self._waiting.pop(running, None)
        self._waiting[self._count if update.is_final else running] = update
        self._changed.set()

    def close(self) -> None:
        self._is_closed = True
        self._changed.set()

    async def get(self) -> Utterance | None:
        while not self._waiting:
            if self._is_closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popitem(last=False)[1]


def _start(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    tasks.add(asyncio.create_task(work))


__all__ = [
    "MIX_AHEAD",
    "MIX_DELAY",
    "QUIET_SECONDS",
    "Failure",
    "Meeting",
    "Participant",
]
