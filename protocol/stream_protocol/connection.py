"""Which message is legal when, as a table; used by both sides. Sans-I/O.

Everything that decides about order lives in ``TRANSITIONS``: who sends, in which state, which
event, and the state after it. A missing key *is* the protocol error. The diagram in the
specification is rendered from the same table (:func:`render_mermaid`), so it cannot drift.

One state serves both directions since only one side can leave each state but by an error:

* ``WAITING_START``: the socket is open; only the client may speak, and only ``start``.
* ``OPENING``: the client waits for ``ready``; audio comes after it.
* ``STREAMING``: audio and control one way, transcripts the other.
* ``STOPPING``: the client has said ``stop`` and is silent; the server sends what is left.
* ``CLOSED``: nothing is legal. Frames that were on their way are to be ignored.

This file knows nothing about bytes (``codec``) or sockets, and does not look into audio.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from stream_protocol.errors import LocalProtocolError, RemoteProtocolError
from stream_protocol.messages import ClientMessage, Error, ServerMessage


class State(enum.Enum):
    """Where a conversation is."""

    WAITING_START = "waiting_start"
    OPENING = "opening"
    STREAMING = "streaming"
    STOPPING = "stopping"
    CLOSED = "closed"


class Audio(enum.Enum):
    """The type of :data:`AUDIO`, so that it can be named in a signature."""

    AUDIO = "audio"


AUDIO = Audio.AUDIO
"""The event of one binary frame."""

Role = Literal["client", "server"]
Event = Literal[
    "audio", "start", "flush", "configure", "stop",
    "ready", "ack", "speech_started", "speech_ended", "partial", "final", "trace", "flushed",
    "notice", "error", "fatal_error", "done",
]  # fmt: skip
"""A message's ``type``, ``audio`` for a binary frame, ``fatal_error`` for an error that closes."""

# What a server may say while a stream is open without changing the state.
_REPORTS: tuple[Event, ...] = (
    "ack",
    "speech_started",
    "speech_ended",
    "partial",
    "final",
    "trace",
    "flushed",
    "notice",
    "error",
)

TRANSITIONS: Mapping[Role, Mapping[State, Mapping[Event, State]]] = MappingProxyType(
    {
        "client": {
            State.WAITING_START: {"start": State.OPENING},
            State.OPENING: {},
            State.STREAMING: {
                "audio": State.STREAMING,
                "flush": State.STREAMING,
                "configure": State.STREAMING,
                "stop": State.STOPPING,
            },
            State.STOPPING: {},
            State.CLOSED: {},
        },
        "server": {
            State.WAITING_START: {"fatal_error": State.CLOSED},
            State.OPENING: {
                "ready": State.STREAMING,
                "notice": State.OPENING,
                "fatal_error": State.CLOSED,
            },
            State.STREAMING: {
                **dict.fromkeys(_REPORTS, State.STREAMING),
                "fatal_error": State.CLOSED,
            },
            State.STOPPING: {
                **dict.fromkeys(_REPORTS, State.STOPPING),
                "done": State.CLOSED,
                "fatal_error": State.CLOSED,
            },
            State.CLOSED: {},
        },
    }
)
"""Sender -> state -> event -> next state. A missing key is the error."""


def event_of(message: ClientMessage | ServerMessage | Audio) -> Event:
    """Return the event that ``message`` is in the table."""
    if isinstance(message, Audio):
        return "audio"
    if isinstance(message, Error) and message.fatal:
        return "fatal_error"
    event: Event = message.__struct_config__.tag  # type: ignore[assignment]
    return event


class Connection:
    """The order of one conversation, seen from one side.

    Args:
        role: Which side the caller is.
    """

    def __init__(self, role: Role) -> None:
        self.role: Role = role
        self._peer: Role = "server" if role == "client" else "client"
        self._state = State.WAITING_START

    @property
    def state(self) -> State:
        """Where the conversation is."""
        return self._state

    def receive(self, message: ClientMessage | ServerMessage | Audio) -> State:
        """Take note of a message from the peer and return the state after it.

        Raises:
            RemoteProtocolError: ``wrong_state``: the peer may not send this now. The state stays,
                so that a server can still send its fatal error.
        """
        event = event_of(message)
        target = TRANSITIONS[self._peer][self._state].get(event)
        if target is None:
            raise RemoteProtocolError("wrong_state", _refusal(self._peer, self._state, event))
        self._state = target
        return target

    def send(self, message: ClientMessage | ServerMessage | Audio) -> State:
        """Take note of a message that the caller is about to send; return the state after it.

        Raises:
            LocalProtocolError: The caller may not send this now; nothing must be sent.
        """
        event = event_of(message)
        target = TRANSITIONS[self.role][self._state].get(event)
        if target is None:
            raise LocalProtocolError(_refusal(self.role, self._state, event))
        self._state = target
        return target

    def close(self) -> None:
        """Take note that the socket is gone."""
        self._state = State.CLOSED


def _refusal(sender: Role, state: State, event: Event) -> str:
    legal = TRANSITIONS[sender][state]
    allowed = ", ".join(f"`{name}`" for name in legal) if legal else "nothing"
    return f"`{event}` may not be sent while {state.value}; the {sender} may send {allowed}"


def render_mermaid() -> str:
    """Return the table as a Mermaid state diagram, for the specification."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.WAITING_START.name}"]
    for state in State:
        arrows: dict[State, list[str]] = {}
        for role in TRANSITIONS:
            events: dict[State, list[str]] = {}
            for event, target in TRANSITIONS[role][state].items():
                events.setdefault(target, []).append(event)
            for target, names in events.items():
                arrows.setdefault(target, []).append(f"{role} {', '.join(names)}")
        for target in State:
            if target in arrows:
                label = " / ".join(arrows[target])
                lines.append(f"    {state.name} --> {target.name}: {label}")
    lines.append(f"    {State.CLOSED.name} --> [*]")
    return "\n".join(lines) + "\n"


__all__ = [
    "AUDIO",
    "TRANSITIONS",
    "Audio",
    "Connection",
    "Event",
    "Role",
    "State",
    "event_of",
    "render_mermaid",
]
