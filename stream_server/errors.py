"""Every error that the server raises on purpose, and the one mapping to the wire.

* :exc:`DiffscribeError`
    * :exc:`ConfigError`: an option is wrong; names key, value and what is allowed.
    * :exc:`ModelError`: the model cannot be loaded; names file and remedy.
    * :exc:`RequestError`: the client did wrong; names the field and the remedy.
        * :exc:`InvalidField`
        * :exc:`BadAudio`
        * :exc:`TooLarge`
        * :exc:`LimitReached`
        * :exc:`Unauthorized`
    * :exc:`ServiceError`: the server cannot do it now.
        * :exc:`Overloaded`
        * :exc:`Draining`
        * :exc:`DeadlineExceeded`
        * :exc:`RecognitionFailed`

Protocol violations (bad JSON, a message out of order) are ``stream_protocol.errors``; the mapping
below takes both. An error that is none of these is a defect: it goes out as ``internal`` with no
detail, and into the log with all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import Error, ErrorCode


class DiffscribeError(Exception):
    """Base of every error that the server raises on purpose."""


class ConfigError(DiffscribeError):
    """An option is wrong."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={value!r} is not valid: {allowed}")
        self.key = key
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str]]:
        """Let it come from another process as it was raised there."""
        return type(self), (self.key, self.value, self.allowed)


class ModelError(DiffscribeError):
    """The model cannot be loaded."""


class RequestError(DiffscribeError):
    """The client did wrong."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidField(RequestError):
    """A field's value is outside what is allowed."""


class BadAudio(RequestError):
    """The audio is not what was announced."""


class TooLarge(RequestError):
    """A message or a file is over the limit."""


class LimitReached(RequestError):
    """A quota of the session is used up."""


class Unauthorized(RequestError):
    """No key, or a wrong one."""


class ServiceError(DiffscribeError):
    """The server cannot do it now; the same call may work later or elsewhere."""


class Overloaded(ServiceError):
    """Every place is taken."""


class Draining(ServiceError):
    """The server is about to stop and takes nothing new."""


class DeadlineExceeded(ServiceError):
    """The work waited too long and was dropped."""


class RecognitionFailed(ServiceError):
    """The model raised; this segment has no text, the session goes on."""


@dataclass(frozen=True, slots=True)
class WireError:
    """How an error reaches the client on each transport."""

    code: ErrorCode
    http_status: int
    close_code: int
    """WebSocket close code where the error ends the connection (RFC 6455, 7.4)."""
    retryable: bool
    fatal: bool


_WIRE: dict[type[Exception], WireError] = {
    InvalidField: WireError("invalid_field", 400, 1008, retryable=False, fatal=True),
    BadAudio: WireError("bad_audio", 400, 1007, retryable=False, fatal=True),
    TooLarge: WireError("too_large", 413, 1009, retryable=False, fatal=True),
    LimitReached: WireError("limit", 429, 1008, retryable=True, fatal=True),
    Unauthorized: WireError("unauthorized", 401, 1008, retryable=False, fatal=True),
    Overloaded: WireError("overloaded", 503, 1013, retryable=True, fatal=True),
    Draining: WireError("draining", 503, 1012, retryable=True, fatal=True),
    DeadlineExceeded: WireError("timeout", 504, 1013, retryable=True, fatal=False),
    RecognitionFailed: WireError("recognition_failed", 500, 1011, retryable=True, fatal=False),
}
_INTERNAL = WireError("internal", 500, 1011, retryable=True, fatal=True)


def wire_error(error: BaseException) -> WireError:
    """Return how ``error`` reaches the client; an unknown one is ``internal``."""
    if isinstance(error, RemoteProtocolError):
        return WireError(error.code, 400, error.close_code, retryable=False, fatal=True)
    for kind in type(error).__mro__:
        if kind in _WIRE:
            return _WIRE[kind]
    return _INTERNAL


def error_message(error: BaseException) -> Error:
    """Return the protocol message for ``error``. Unknown errors give no detail away."""
    wire = wire_error(error)
    known = isinstance(error, DiffscribeError | RemoteProtocolError)
    return Error(
        code=wire.code,
        message=str(error) if known else "internal error; the server's log has the cause",
        field=getattr(error, "field", None) if known else None,
        retryable=wire.retryable,
        fatal=wire.fatal,
    )


__all__ = [
    "BadAudio",
    "ConfigError",
    "DeadlineExceeded",
    "DiffscribeError",
    "Draining",
    "InvalidField",
    "LimitReached",
    "ModelError",
    "Overloaded",
    "RecognitionFailed",
    "RequestError",
    "ServiceError",
    "TooLarge",
    "Unauthorized",
    "WireError",
    "error_message",
    "wire_error",
]
