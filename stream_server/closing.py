"""Uvicorn's WebSocket, but a client that takes nothing is told why it is closed, and then cut.

Uvicorn sends nothing while a client's buffers are full, a close frame neither, and closes by
waiting until they are empty: a client that never reads would keep its connection for ever, and
would never learn why it was left. Here the close frame goes behind what waits, and the connection
is cut when that is not taken either.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_SECONDS = 5.0
"""What a client gets to take the rest, and the close frame, before it is cut."""


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


__all__ = ["ClosingProtocol"]
