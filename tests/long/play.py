"""Streams through the client library: what was heard, and what of it differs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from websockets.asyncio.client import ClientConnection

from stream_client.client import Reconnect, Stream, connect
from stream_protocol.messages import Done, Error, Final, Notice, Partial, ServerMessage, Start
from stream_server.transcript.text import matching_end

PATIENT = Reconnect(attempts=200, first_delay=0.05, max_delay=1.0)


@dataclass(slots=True)
class Heard:
    """What came of a stream."""

    finals: list[Final] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    """Their codes."""
    errors: list[str] = field(default_factory=list)
    """What went wrong with segments; each has an empty final."""
    samples: int = 0
    """Of the stream's end, as the server says."""
    reconnects: int = 0
    partials: int = 0
    corrected: int = 0
    """Words that were stable, and that the final changed or left out."""
    _stable: dict[int, str] = field(default_factory=dict)
    """Of each running segment, the newest."""

    @property
    def words(self) -> list[str]:
        """The joined transcript."""
        return " ".join(final.text for final in self.finals).split()

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """Channel, start and end of each final."""
        return [(final.channel, final.start, final.end) for final in self.finals]

    def take(self, message: ServerMessage) -> None:
        """Take note of a message."""
        match message:
            case Partial():
                self.partials += 1
                self._stable[message.segment] = message.stable
            case Final():
                self.finals.append(message)
                stable = self._stable.pop(message.segment, "")
                self.corrected += corrected(stable, message.text)
            case Notice():
                self.notices.append(message.code)
            case Error():
                self.errors.append(f"{message.code}: {message.message}")
            case Done():
                self.samples = message.samples


class Line:
    """Opens a stream's connections as the client does, and can break the newest from inside."""

    def __init__(self, dialler: Any) -> None:
        self._dialler = dialler
        self._socket: ClientConnection | None = None

    async def dial(self, start: Start) -> tuple[ClientConnection, Any, Any]:
        """Open a connection."""
        opened: tuple[ClientConnection, Any, Any] = await self._dialler.dial(start)
        self._socket = opened[0]
        return opened

    def abort(self) -> None:
        """Lose the client's own socket."""
        if self._socket is not None:
            self._socket.transport.abort()


async def play(
    url: str,
    audio: bytes,
    start: Start | None = None,
    *,
    bytes_per_second: int = 0,
    piece: int = 6400,
    began: Callable[[Stream, Line], None] = lambda *_: None,
) -> Heard:
    """Stream audio to its end.

    Args:
        url: of the server.
        audio: as ``start`` announces it.
        start: of the stream.
        bytes_per_second: pace; 0 is as fast as the server takes it.
        piece: bytes sent at once.
        began: called with the stream once it is open, and with what carries it.
    """
    heard = Heard()
    opening = connect(url, start, reconnect=PATIENT, open_timeout=60)
    line = Line(opening._stream._dialler)
    opening._stream._dialler = line  # type: ignore[assignment]
    async with opening as stream:
        began(stream, line)
        sending = asyncio.create_task(_send(stream, audio, bytes_per_second, piece))
        try:
            async for message in stream:
                heard.take(message)
            await sending
        finally:
            sending.cancel()
        heard.reconnects = stream.reconnects
    return heard


async def _send(stream: Stream, audio: bytes, bytes_per_second: int, piece: int) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for at in range(0, len(audio), piece):
        if bytes_per_second:
            await asyncio.sleep(began + at / bytes_per_second - loop.time())
        await stream.send(audio[at : at + piece])
    await stream.stop()


def corrected(stable: str, text: str) -> int:
    """Return how many words of what was stable a final changed, left out or put in between."""
    said, words = stable.split(), text.split()
    return differing(said, words[: matching_end(said, words)])


def differing(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many words must be changed, left out or put in to make one of the other."""
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return sum(
        max(to - at, to2 - at2)
        for kind, at, to, at2, to2 in matcher.get_opcodes()
        if kind != "equal"
    )
