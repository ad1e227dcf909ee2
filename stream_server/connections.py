"""Uvicorn's connections, but none lasts because its client does nothing.

Uvicorn waits for ever for the head of a request, so whoever sends half of one holds a socket. And
it sends nothing while a client's buffers are full, a close frame neither, and closes by waiting
until they are empty: a client that never reads would keep its connection, and would never learn
why it was left. Here a head has its time, and a close frame goes behind what waits; when that is
not taken either, the connection is cut.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_HEAD_SECONDS = 10.0
"""From the first of a request, or of a connection, to the end of the request's head."""
_SECONDS = 5.0
"""What a client gets to take the rest, and the close frame, before it is cut."""


class PunctualProtocol(H11Protocol):
    """A connection on which the head of a request comes in time."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        super().data_received(data)
        is_upgraded = self.transport.get_protocol() is not self
        if is_upgraded or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_waiting()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ClosingProtocol(WebSocketsSansIOProtocol):
    """A connection whose end does not depend on its client."""

    async def send(self, message: Any) -> None:
        """Send ``message`` when there is room for it; a close at once."""
        if message["type"] != "websocket.close":
            await super().send(message)
            if self.initial_response is not None and self.close_sent:
                # Else uvicorn logs each refusal as a failure of ours: anybody could fill a disk.
                self.handshake_complete = True
            return
        is_full = not self.writable.is_set()
        self.writable.set()
        try:
            await super().send(message)
        finally:
            if is_full and not self.disconnected:
                self.writable.clear()
        self.loop.call_later(_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """Leave a client that answers no ping, and do not wait for it to take what is left."""
        super().keepalive_timeout()
        self.loop.call_later(_SECONDS, self.transport.abort)


__all__ = ["ClosingProtocol", "PunctualProtocol"]
