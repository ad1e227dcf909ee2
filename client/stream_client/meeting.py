"""Meetings: ``async with Meeting(url) as meeting``, add participants, send each one's audio.

Each participant has a stream of their own, which survives breaks as any does; what comes back is
merged by ``timeline``. Where the server has too few places, several share one (``mixdown``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from stream_client.client import RECONNECTED, Reconnect, Stream, connect
from stream_client.errors import ClientError, ServerRefused
from stream_client.inbox import Inbox
from stream_client.mixdown import MixReader
from stream_client.outlets import MIX_DELAY, Mix, Outlet, OwnStream
from stream_client.timeline import GAP, Placement, Timeline, Utterance
from stream_protocol.errors import LocalProtocolError
from stream_protocol.messages import CLOCK_RATE, Notice, Start

QUIET_SECONDS = 1.0
"""Without live audio of somebody after which what they said is finalised."""
Mixing = Literal["never", "full", "always"]
"""Whether several share a stream: never, where the server is full, or from the beginning."""

_TICK_SECONDS = 0.1
_FULL = ("overloaded", "limit")
"""What a server says that has no place for one more."""
_PLACE_SECONDS = 10.0
"""What a stream that is stopped gets to give its place free."""
_PLACE_TRIES = 10


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
        mixed: Whether several share a stream. Where the server is ``full``, whoever came last with
            a stream of their own shares it with those for whom there is no place.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        url: str,
        start: Start | None = None,
        *,
        api_key: str | None = None,
        reconnect: Reconnect | None = Reconnect(),  # noqa: B008 - immutable
        mixed: Mixing = "never",
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
        self._mixed = mixed
        self._mix: Mix | None = None
        self._streams = contextlib.AsyncExitStack()
        self._readers: set[asyncio.Task[None]] = set()
        self._helpers: set[asyncio.Task[None]] = set()
        self._adding = asyncio.Lock()
        self._updates: Inbox[Utterance] = Inbox()
        self._participants: list[Participant] = []
        self._is_ended = False
        self.timeline = Timeline()
        """All that has been said so far."""
        self.failures: list[Failure] = []
        """Streams that failed; the others go on."""

    async def __aenter__(self) -> Meeting:
        self._began = self._clock()
        if self._mixed == "always":
            self._mix = Mix()
            await self._open_mix(self._mix, 0)
        _start(self._watch(), self._helpers)
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
        async with self._adding:  # who is refused may have to share with who came before
            participant = await self._add(name, at)
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

    async def _add(self, name: str, at: int | None) -> Participant:
        mix = self._mix
        if self._mixed != "always":
            try:
                return await self._add_stream(name, at)
            except ServerRefused as error:
                if self._mixed == "never" or error.code not in _FULL:
                    raise
                mix = mix or await self._share_last(at, error)
        assert mix is not None
        placement = Placement()
        number = self.timeline.join(name, placement)
        return Participant(self, number, placement, mix.open(number, placement, at), at)

    async def _add_stream(self, name: str, at: int | None) -> Participant:
        stream = await self._streams.enter_async_context(self._open())
        placement = Placement()
        number = self.timeline.join(name, placement)
        reading = _start(self._read(stream, number), self._readers)
        outlet = OwnStream(stream, reading)
        return Participant(self, number, placement, outlet, at)

    async def _share_last(self, at: int | None, refusal: ServerRefused) -> Mix:
        """Let whoever came last share their place; return the mix.

        Args:
            at: Where the recording begins that is to be in the mix too; none is live audio.
            refusal: What the server said; raised if there is nobody to share with.
        """
        owners = [each for each in self._participants if each.has_stream]
        if not owners:
            raise refusal
        last = owners[-1]
        mix = Mix(min(last.following, max(0, self.now - MIX_DELAY) if at is None else at))
        await last.move(mix)
        for attempt in range(_PLACE_TRIES):
            try:
                await self._open_mix(mix, last.number)
                self._mix = mix
                return mix
            except ServerRefused as error:
                refusal = error
                await asyncio.sleep(_TICK_SECONDS * (attempt + 1))
        await mix.give_up()
        self.note_failure(last.name, refusal)
        raise refusal

    async def _open_mix(self, mix: Mix, first: int) -> None:
        stream = await self._streams.enter_async_context(self._open())
        _start(mix.pump(stream, lambda: self.now), self._helpers)
        _start(self._read_mix(stream, mix, first), self._readers)

    async def _read(self, stream: Stream, number: int) -> None:
        try:
            async for message in stream:
                if isinstance(message, Notice) and message.code == RECONNECTED:
                    self.timeline.interrupt(number)
                update = self.timeline.take(number, message)
                if update is not None:
                    self._put(update)
        except ClientError as error:
            self.note_failure(self.timeline.name(number), error)

    async def _read_mix(self, stream: Stream, mix: Mix, first: int) -> None:
        reader = MixReader(self.timeline, mix.down, first)
        try:
            async for message in stream:
                if isinstance(message, Notice) and message.code == RECONNECTED:
                    reader.interrupt()
                for update in reader.take(message):
                    self._put(update)
        except ClientError as error:
            self.note_failure(", ".join(map(self.timeline.name, mix.members)), error)

    def _put(self, update: Utterance) -> None:
        running = (update.participant, update.segment)
        self._updates.put(update, running, is_last=update.is_final)

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
        number: int,
        placement: Placement,
        outlet: Outlet,
        at: int | None,
    ) -> None:
        self._meeting = meeting
        self._placement = placement
        self._outlet = outlet
        self._is_live = at is None
        self._sending = asyncio.Lock()
        self._is_heard = False
        self._has_left = False
        self._last = meeting.seconds
        """When there was last something for the server."""
        if at is not None:
            placement.place(0, at)
        self.number = number
        """Counts up from 0 in the order in which participants came."""
        self.name = meeting.timeline.name(number)

    @property
    def has_stream(self) -> bool:
        """Whether they are there with a stream of their own."""
        return isinstance(self._outlet, OwnStream) and not self._has_left

    @property
    def following(self) -> int:
        """Samples of the meeting from which on further audio of theirs may come."""
        if self._is_live:
            return max(0, self._meeting.now - MIX_DELAY)
        return self._placement.end(self._outlet.position)

    async def move(self, mix: Mix) -> None:
        """Go on in a mix; returns when the place of their own stream is free. For the meeting."""
        async with self._sending:
            before, at = self._outlet, None if self._is_live else self.following
            self._placement = Placement()
            if at is not None:
                self._placement.place(0, at)
            self._outlet = mix.open(self.number, self._placement, at)
        with contextlib.suppress(ClientError):  # its reader reports that
            await before.finish()
        if isinstance(before, OwnStream):
            await asyncio.wait([before.reading], timeout=_PLACE_SECONDS)

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
        async with self._sending:
            position, missing = self._outlet.position, 0
            if self._is_live and at is None:
                missing = self._placement.place_live(position, len(pcm) // 2, self._meeting.now)
            elif at is not None:
                missing = self._placement.place(position, at)
            if missing > GAP:
                await self._outlet.pause()
            elif missing:
                pcm = bytes(2 * missing) + pcm
            await self._outlet.write(pcm)
        self._is_heard, self._last = True, self._meeting.seconds

    async def leave(self) -> None:
        """Say that no more audio of theirs follows; their last finals still come."""
        if not self._has_left:
            self._has_left = True
            with contextlib.suppress(ClientError):  # the reader of a failed stream reports that
                await self._outlet.finish()

    async def rest(self) -> None:
        """Take note that time passes. Called by the meeting."""
        if self._has_left or self._sending.locked():
            return
        now = self._meeting.seconds
        silent = now - self._last
        is_quiet = self._is_live and self._is_heard and silent >= QUIET_SECONDS
        if is_quiet or silent >= self._outlet.patience:
            self._is_heard, self._last = False, now
            await self._outlet.pause()


def _start(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    tasks.add(task)
    return task


__all__ = ["QUIET_SECONDS", "Failure", "Meeting", "Mixing", "Participant"]
