"""What a session wants done: the whole vocabulary between the pure session and its driver."""

from __future__ import annotations

from dataclasses import dataclass

from stream_protocol.messages import ServerMessage
from stream_server.scheduler.request import Request


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the client, after those before it."""

    message: ServerMessage


@dataclass(frozen=True, slots=True)
class Submit:
    """Hand a request to the engine; its reply goes to ``Session.receive_reply``."""

    request: Request


@dataclass(frozen=True, slots=True)
class Cancel:
    """Take requests back from the engine."""

    segment: int | None
    """Number on the wire; none is every segment of the stream."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection once everything before has been sent. Nothing follows."""

    code: int
    """WebSocket close code."""
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Make the partial of a segment that the engine has its final; none there, nothing happens."""

    segment: int
    """Number on the wire."""


Effect = Send | Submit | Cancel | Promote | Close

__all__ = ["Cancel", "Close", "Effect", "Promote", "Send", "Submit"]
