"""What a client sent and the session has not taken yet: bounded, and taken in batches.

Waking the session for each message of 20 ms would cost more than the work on it. Audio therefore
ripens until a batch is together or a moment has passed; a control message is ripe at once. Order
is kept. One loop, one reader, one taker.
"""

from __future__ import annotations

import asyncio

import msgspec

from stream_protocol.messages import ClientMessage

Item = bytes | ClientMessage | Exception
"""Audio, a message, or what reading ended with."""


_OVERHEAD = 64
"""Bytes that any item counts for at least, so that a flood of small ones fills the queue too."""


def _size(item: Item) -> int:
    """Return the bytes of an item; a text in a control message may be long, too."""
    match item:
        case bytes():
            return len(item)
        case Exception():
            return 0
        case _:
            return len(msgspec.json.encode(item))


class Inbox:
    """A queue of items.

    Args:
        batch_bytes: Bytes of audio that are worth waking up for.
        batch_seconds: Seconds that audio waits at most to become as much.
        full_bytes: Bytes, of audio and of messages, from which on there is no room.
    """

    def __init__(self, batch_bytes: int, batch_seconds: float, full_bytes: int) -> None:
        self._batch_bytes = batch_bytes
        self._batch_seconds = batch_seconds
        self._full_bytes = full_bytes
        self._items: list[Item] = []
        self._bytes = 0
        self._ripe = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_room(self) -> bool:
        """Whether more may be read."""
        return self._room.is_set()

    def put(self, item: Item) -> None:
        """Add an item; the caller has awaited :meth:`room` before it read it."""
        self._items.append(item)
        self._bytes += _OVERHEAD + _size(item)
        if self._bytes >= self._full_bytes:
            self._room.clear()
        if self._bytes >= self._batch_bytes or not isinstance(item, bytes):
            self._ripe.set()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._batch_seconds, self._ripe.set)

    async def room(self) -> None:
        """Wait until more may be read."""
        await self._room.wait()

    async def take(self) -> list[Item]:
        """Wait until something is ripe and return all there is, oldest first."""
        await self._ripe.wait()
        self._ripe.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items, self._items = self._items, []
        self._bytes = 0
        self._room.set()
        return items

    def close(self) -> None:
        """Forget everything; leaves no timer behind."""
        self._items.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


__all__ = ["Inbox", "Item"]
