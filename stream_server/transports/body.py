"""Small request bodies: read whole, bounded, of one media type."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request


async def read_body(request: Request, kind: str, max_bytes: int) -> bytes:
    """Return the body of a request.

    Args:
        request: whose body it is.
        kind: the media type that it must have.
        max_bytes: that it may have.

    Raises:
        HTTPException: it is of another type (415) or too long (413).
    """
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != kind:
        raise HTTPException(415, f"send {kind}, not {found[:60] or 'a body without a type'}")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise HTTPException(413, f"the body may have {max_bytes} bytes")
    return bytes(body)


__all__ = ["read_body"]
