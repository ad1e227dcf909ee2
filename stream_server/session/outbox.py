"""What a client has not been sent yet: bounded without losing what matters.

A slow client gets fewer partials, traces and acknowledgements, for newer ones make older ones
useless. All else is kept; when it piles up the queue says so, and its owner stops reading until it
is shorter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from stream_protocol.messages import Ack, Partial, ServerMessage, Trace

_LIMIT = 64
"""Messages from which on the queue is full."""


class Outbox:
    """A queue of messages to one client.

    Args:
        limit: Messages from which on the queue is full and takes no partials.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._messages: deque[ServerMessage] = deque()
        self._filled = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        """Whether the owner should make no more messages."""
        return len(self._messages) >= self._limit

    def put(self, message: ServerMessage) -> None:
        """Add a message in the place of those that it makes useless."""
        if self._messages and isinstance(message, Ack | Partial | Trace):
            self._supersede(message)
            if self.is_full and isinstance(message, Partial | Trace):
                return
        self._messages.append(message)
        self._sent.clear()
        self._filled.set()

    async def send_all(
        self, send: Callable[[ServerMessage], Awaitable[None]], progress: Callable[[], None]
    ) -> None:
        """Send whatever comes, for ever.

        Args:
            send: Returns when the client has room for more.
            progress: Called after each message.
        """
        while True:
            await self._filled.wait()
            while self._messages:
                await send(self._messages.popleft())
                progress()
            self._filled.clear()
            self._sent.set()

    async def sent(self) -> None:
        """Wait until everything has been sent."""
        await self._sent.wait()

    def _supersede(self, message: Ack | Partial | Trace) -> None:
        for index, queued in enumerate(self._messages):
            if type(queued) is type(message) and _segment(queued) == _segment(message):
                del self._messages[index]
                return


def _segment(message: ServerMessage) -> int | None:
    return message.segment if isinstance(message, Partial | Trace) else None


__all__ = ["Outbox"]
