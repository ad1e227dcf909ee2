"""Messages to and from the text of WebSocket frames: strict and bounded.

Whatever the peer sends, the outcome is a typed message or :exc:`RemoteProtocolError` with the code
and the close code to answer. No other exception leaves the decoders. This file knows nothing about
the order of messages (``connection``) or about sockets.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import ClientMessage, Message, ServerMessage

MAX_CLIENT_TEXT_BYTES = 65_536
"""Bytes of a text frame from a client: the largest valid message is under 2 kB."""
MAX_SERVER_TEXT_BYTES = 1_048_576
"""Bytes of a text frame from a server: 30 s of speech with word times is under 64 kB."""
MAX_INTEGER = 2**53 - 1
"""Largest integer, either sign: beyond it a JavaScript peer would silently round (RFC 8259, 6)."""

_CLOSE_BAD_MESSAGE = 1007
_CLOSE_INVALID_FIELD = 1008
_CLOSE_TOO_LARGE = 1009

_AT_PATH = re.compile(r" - at `(?P<path>\$[^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING_FIELD = re.compile(r"missing required field `(?P<name>[^`]*)`")

_M = TypeVar("_M", ClientMessage, ServerMessage)

_encoder = msgspec.json.Encoder()
_client_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_server_decoder: msgspec.json.Decoder[ServerMessage] = msgspec.json.Decoder(ServerMessage)


def encode(message: ClientMessage | ServerMessage) -> str:
    """Return the text frame that carries ``message``."""
    return _encoder.encode(message).decode()


def decode_client(data: str | bytes, max_bytes: int = MAX_CLIENT_TEXT_BYTES) -> ClientMessage:
    """Return the message in a text frame that a client sent.

    Args:
        data: The frame's payload.
        max_bytes: Bytes of UTF-8 above which the frame is refused unread.

    Raises:
        RemoteProtocolError: The frame is no message of a client; carries what to answer.
    """
    return _decode(_client_decoder, data, max_bytes)


def decode_server(data: str | bytes, max_bytes: int = MAX_SERVER_TEXT_BYTES) -> ServerMessage:
    """Return the message in a text frame that a server sent.

    Args:
        data: The frame's payload.
        max_bytes: Bytes of UTF-8 above which the frame is refused unread.

    Raises:
        RemoteProtocolError: The frame is no message of a server; carries what to answer.
    """
    return _decode(_server_decoder, data, max_bytes)


def _decode(decoder: msgspec.json.Decoder[_M], data: str | bytes, max_bytes: int) -> _M:
    if _exceeds(data, max_bytes):
        raise RemoteProtocolError(
            "too_large",
            f"a message may have {max_bytes} bytes of text; audio goes into binary frames",
            close_code=_CLOSE_TOO_LARGE,
        )
    try:
        message = decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    # UnicodeError and "too many digits" are ValueErrors, as is msgspec's own DecodeError.
    except (ValueError, RecursionError) as error:
        raise _bad(f"the text frame is not JSON in UTF-8: {_reason(error)}") from None
    _check_integers(message, "$")
    return message


def _exceeds(data: str | bytes, max_bytes: int) -> bool:
    # A character has one byte at least, so most frames are judged without encoding them.
    if len(data) > max_bytes:
        return True
    if isinstance(data, bytes) or data.isascii():
        return False
    return len(data.encode("utf-8", "surrogatepass")) > max_bytes


def _invalid(text: str) -> RemoteProtocolError:
    """Turn a message of msgspec into an error with code and path."""
    at = _AT_PATH.search(text)
    path = at["path"] if at else "$"
    problem = text[: at.start()] if at else text
    for pattern in (_UNKNOWN_FIELD, _MISSING_FIELD):
        if named := pattern.search(problem):
            path = f"{path}.{named['name']}"
    if path in ("$", "$.type"):
        return _bad(
            f"every text frame is a JSON object with a known `type`: {problem}",
            field=None if path == "$" else path,
        )
    # The peer chose an unknown field's name: bound what is echoed.
    return RemoteProtocolError(
        "invalid_field", _clip(problem), close_code=_CLOSE_INVALID_FIELD, field=_clip(path)
    )


def _bad(text: str, field: str | None = None) -> RemoteProtocolError:
    return RemoteProtocolError(
        "bad_message", _clip(text), close_code=_CLOSE_BAD_MESSAGE, field=field
    )


def _clip(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."


def _reason(error: BaseException) -> str:
    if isinstance(error, UnicodeError):
        return "a string is not valid UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error)


def _check_integers(value: object, path: str) -> None:
    """Refuse integers that cannot be samples, hertz or milliseconds on every platform."""
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise RemoteProtocolError(
            "invalid_field",
            f"an integer lies between -{MAX_INTEGER} and {MAX_INTEGER}",
            close_code=_CLOSE_INVALID_FIELD,
            field=path,
        )
    if isinstance(value, Message):
        for name in value.__struct_fields__:
            _check_integers(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_integers(item, f"{path}[{index}]")


__all__ = [
    "MAX_CLIENT_TEXT_BYTES",
    "MAX_INTEGER",
    "MAX_SERVER_TEXT_BYTES",
    "decode_client",
    "decode_server",
    "encode",
]
