"""Where the audio of a meeting's participants goes: into a stream of their own, or into a mix."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from stream_client.client import Stream
from stream_client.errors import ClientError, StreamBroken
from stream_client.mixdown import Mixdown
from stream_client.timeline import Placement
from stream_protocol.messages import CLOCK_RATE

MIX_DELAY = CLOCK_RATE // 4
"""Samples by which a mix lags behind the clock, so that pieces that come late are in it."""
MIX_AHEAD = 5 * CLOCK_RATE
"""Samples of a recording that may wait for the others, in a mix."""

_TICK_SECONDS = 0.1
_KEEP_ALIVE = 3
"""Times within the server's idle timeout that somebody silent is heard of."""


class Outlet(Protocol):
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


class OwnStream:
    """A stream for one participant.

    Args:
        stream: Open.
        reading: Ends when everything of the stream has come.
    """

    def __init__(self, stream: Stream, reading: asyncio.Task[None]) -> None:
        self._stream = stream
        self.reading = reading

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


class Mix:
    """One stream for several: mixes what they write, at the pace of the meeting.

    Args:
        origin: Samples of the meeting at which it begins.
    """

    def __init__(self, origin: int = 0) -> None:
        self.down = Mixdown(origin)
        self.is_broken = False
        """Whether its stream has failed."""
        self._tracks: list[MixTrack] = []
        self._has_room = asyncio.Condition()
        self._is_ended = False

    @property
    def members(self) -> list[int]:
        """The participants in it."""
        return [track.number for track in self._tracks]

    def open(self, number: int, placement: Placement, at: int | None) -> MixTrack:
        """Return where a participant writes."""
        track = MixTrack(self, number, placement, at)
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
        except ClientError:  # its reader reports that
            await self.give_up()

    async def give_up(self) -> None:
        """Take note that there is no stream for it."""
        self.is_broken = True
        async with self._has_room:
            self._has_room.notify_all()

    async def wait_for_room(self, end: int) -> None:
        """Return when a recording that reaches up to ``end`` is not too far ahead."""
        async with self._has_room:
            await self._has_room.wait_for(
                lambda: self.is_broken or end - self.down.cursor <= MIX_AHEAD
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


class MixTrack:
    """A participant's part of a mix."""

    patience = float("inf")

    def __init__(self, mix: Mix, number: int, placement: Placement, at: int | None) -> None:
        self._mix = mix
        self.number = number
        self._placement = placement
        self.is_recording = at is not None
        self.is_finished = False
        self.position = 0
        self.end = at or 0
        """Samples of the meeting at which what was written ends."""

    async def write(self, pcm: bytes) -> None:
        if self._mix.is_broken:
            raise StreamBroken("the stream of the mix has failed")
        # Where live audio turns out to have come late, it cannot be mixed into what came before.
        at = max(self.end, self._placement.start(self.position))
        self._mix.down.add(self.number, at, pcm)
        self.position += len(pcm) // 2
        self.end = at + len(pcm) // 2
        if self.is_recording:
            await self._mix.wait_for_room(self.end)

    async def pause(self) -> None:
        """Do nothing: the mix goes on with silence."""

    async def finish(self) -> None:
        self.is_finished = True


__all__ = ["MIX_AHEAD", "MIX_DELAY", "Mix", "MixTrack", "Outlet", "OwnStream"]
