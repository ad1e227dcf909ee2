"""Errors of the protocol itself.

* :exc:`ProtocolError`
    * :exc:`LocalProtocolError`: this side tried to send something that is not legal now.
    * :exc:`RemoteProtocolError`: the peer sent something that is not legal; carries the answer.
"""

from __future__ import annotations

from stream_protocol.messages import ErrorCode


class ProtocolError(Exception):
    """Base of the protocol's errors."""


class LocalProtocolError(ProtocolError):
    """This side tried to send something that is not legal now: a defect in the caller."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that is not legal."""

    def __init__(
        self, code: ErrorCode, message: str, *, close_code: int = 1002, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.close_code = close_code
        """WebSocket close code to answer with (RFC 6455, 7.4)."""
        self.field = field
        """Path of the field that is wrong, where one is."""


__all__ = ["LocalProtocolError", "ProtocolError", "RemoteProtocolError"]
