"""An accepted WebSocket as every API here uses it: bounded frames in, text out, gone for good.

Reading is paced by the caller: uvicorn stops reading the socket until ``receive`` is called, so a
session that does not keep up slows its client down through TCP. Knows no API's messages.
"""

from __future__ import annotations

import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from stream_server.errors import TooLarge

GRACE_SECONDS = 1.0
"""What a client gets to take the last message when the server stops."""
_MAX_REASON = 123
"""Bytes (RFC 6455, 5.5: a control frame has 125, two of them the code)."""
_GONE = (WebSocketDisconnect, RuntimeError, OSError)
"""Starlette and uvicorn say in these ways that the client left while we were writing."""


class Socket:
    """One connection.

    Args:
        websocket: accepted before the first call.
        max_message_bytes: of one message, text or binary.
    """

    def __init__(self, websocket: WebSocket, max_message_bytes: int) -> None:
        self._websocket = websocket
        self._max_bytes = max_message_bytes
        self._is_gone = False

    @property
    def is_gone(self) -> bool:
        """Whether the client has left, or was left."""
        return self._is_gone

    async def receive(self) -> str | bytes | None:
        """Return the next text or binary message; none when the client is gone.

        Raises:
            TooLarge: it is over the limit.
        """
        if self._is_gone:
            return None
        event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            self._is_gone = True
            return None
        data: str | bytes | None = event.get("text")
        if data is None:
            data = event["bytes"]
        size = len(data)
        if isinstance(data, str) and size <= self._max_bytes and not data.isascii():
            size = len(data.encode("utf-8", "surrogatepass"))
        if size > self._max_bytes:
            raise TooLarge(
                f"a message has {size} bytes; {self._max_bytes} are allowed: send audio in "
                "smaller pieces"
            )
        return data

    async def send(self, text: str) -> None:
        """Send a text message; returns when there is room for more.

        Raises:
            ConnectionError: the client is gone.
        """
        if self._is_gone:
            raise ConnectionResetError("the client is gone")
        try:
            await self._websocket.send_text(text)
        except _GONE as error:
            self._is_gone = True
            raise ConnectionResetError("the client is gone") from error

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; nothing happens if that has been done."""
        if self._is_gone or self._websocket.application_state is not WebSocketState.CONNECTED:
            return
        text = reason.encode()[:_MAX_REASON].decode(errors="ignore")
        with contextlib.suppress(*_GONE):
            await self._websocket.close(code, text)
        self._is_gone = True


__all__ = ["GRACE_SECONDS", "Socket"]
