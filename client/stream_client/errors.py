"""Every error that the client raises on purpose.

* :exc:`ClientError`
    * :exc:`ConnectionFailed`: no server answered at this URL.
    * :exc:`ServerRefused`: the server said no; carries its code and whether trying again may help.
    * :exc:`StreamBroken`: the connection broke and the stream cannot go on.
    * :exc:`ServerMisbehaved`: the server sent something that the protocol does not allow.
    * :exc:`SourceError`: the audio cannot be read; names the file or device and the remedy.
    * :exc:`OutputError`: captions cannot be written to their file, or were not taken by a service.

Calling methods out of order (audio after ``stop``) is ``stream_protocol.LocalProtocolError``.
"""

from __future__ import annotations

from stream_protocol.messages import Error, ErrorCode


class ClientError(Exception):
    """Base of every error that the client raises on purpose."""


class ConnectionFailed(ClientError):
    """No server answered at this URL."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"cannot connect to {url}: {reason}")
        self.url = url
        self.reason = reason


class ServerRefused(ClientError):
    """The server said no."""

    def __init__(
        self, code: ErrorCode, message: str, *, retryable: bool, field: str | None = None
    ) -> None:
        where = f" ({field})" if field else ""
        super().__init__(f"the server refused: {code}{where}: {message}")
        self.code: ErrorCode = code
        self.message = message
        self.retryable = retryable
        """Whether the same call may work later or elsewhere."""
        self.field = field
        """Path of the field that is wrong, where one is."""

    @classmethod
    def from_message(cls, error: Error) -> ServerRefused:
        """Return the exception for an ``error`` message."""
        return cls(error.code, error.message, retryable=error.retryable, field=error.field)


class StreamBroken(ClientError):
    """The connection broke and the stream cannot go on."""


class ServerMisbehaved(ClientError):
    """The server sent something that the protocol does not allow."""


class SourceError(ClientError):
    """The audio cannot be read."""


class OutputError(ClientError):
    """Captions or minutes cannot be written to their file, or were not taken by a service."""


__all__ = [
    "ClientError",
    "ConnectionFailed",
    "OutputError",
    "ServerMisbehaved",
    "ServerRefused",
    "SourceError",
    "StreamBroken",
]
