"""Small request bodies: read whole, bounded."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request

from stream_server.errors import DeadlineExceeded, TooLarge

_SECONDS = 10.0
"""For all of it; it is small."""


async def read_body(request: Request, max_bytes: int, kind: str | None = None) -> bytes:
    """Return the body of a request.

    Args:
        request: whose body it is.
        max_bytes: that it may have.
        kind: the media type that it must have; none takes any.

    Raises:
        HTTPException: it is of another type (415).
        TooLarge: it is too long.
        DeadlineExceeded: it does not come.
    """
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind is not None and found != kind:
        raise HTTPException(415, f"send {kind}, not {found[:60] or 'a body without a type'}")
    body = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > max_bytes:
                    raise TooLarge(f"the body may have {max_bytes} bytes")
    except TimeoutError:
        raise DeadlineExceeded(f"the body did not come within {_SECONDS:g} s") from None
    return bytes(body)


__all__ = ["read_body"]
