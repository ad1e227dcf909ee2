"""How schemathesis sends the bodies that it does not know: as they are."""

from __future__ import annotations

import json
from typing import Any

import schemathesis

KINDS = ("application/sdp", "application/trickle-ice-sdpfrag", "audio/wav", "audio/ogg")


@schemathesis.serializer(*KINDS)
def send_as_it_is(context: Any, value: Any) -> bytes:
    """Return the bytes of a generated value."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return json.dumps(value).encode()
