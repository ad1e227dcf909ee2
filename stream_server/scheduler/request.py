"""What is asked of the scheduler, and the one answer that each request gets.

Pure: no asyncio, no torch, no clock. Every request that was taken gets exactly one reply.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stream_server.errors import ServiceError
from stream_server.recogniser.interface import Hypothesis, Utterance

RequestKey = tuple[str, int]
"""Stream and segment: what a newer request replaces an older one by."""

DropReason = Literal["replaced", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class Request:
    """Decode one utterance for a segment of a stream."""

    stream: str
    """Identifies the session (and nothing else) across the engine."""
    segment: int
    """Number of the segment on the wire."""
    revision: int
    """Counts up within the segment; a later one is about more audio, or is the final."""
    is_final: bool
    # Arrays do not compare; what a request is follows from the four fields above.
    utterance: Utterance = field(compare=False, repr=False)
    deadline: float | None = None
    """Seconds on the engine's clock after which the request must not begin; none is never."""
    is_likely: bool = False
    """Whether a partial is of a whole segment, and will be its final if nobody speaks on."""
    is_live: bool = True
    """Whether somebody waits for just this; a file's segments are waited for together."""

    @property
    def key(self) -> RequestKey:
        """Stream and segment."""
        return (self.stream, self.segment)

    @property
    def is_urgent(self) -> bool:
        """Whether a speaker's final depends on it."""
        return self.is_live and (self.is_final or self.is_likely)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The request was decoded to its last step."""

    request: Request
    hypothesis: Hypothesis
    queue_ms: float
    """Milliseconds from the request to its first step."""
    decode_ms: float
    """Milliseconds from the first step to the last."""
    canvases: tuple[str, ...] = ()
    """The canvas after each step, where the utterance is traced."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The request could not be decoded."""

    request: Request
    error: ServiceError


@dataclass(frozen=True, slots=True)
class Dropped:
    """The request was not decoded, and nobody did wrong."""

    request: Request
    reason: DropReason
    """``replaced`` by a newer one of its segment, ``cancelled``, or ``expired`` in the queue."""


Reply = Decoded | Failed | Dropped
"""The one answer to a request."""


__all__ = [
    "Decoded",
    "DropReason",
    "Dropped",
    "Failed",
    "Reply",
    "Request",
    "RequestKey",
]
