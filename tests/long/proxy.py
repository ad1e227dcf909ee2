"""A TCP proxy in front of several servers, whose connections can be broken.

A connection goes to the next address that takes it. The proxy knows nothing of what passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Self

_CHUNK = 65_536


class Proxy:
    """Listens on a free port and passes bytes.

    Args:
        addresses: host and port of each server.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]]) -> None:
        self._addresses = list(addresses)
        self._turns = itertools.count()
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._port = 0
        self.newest = 0
        """Of the addresses, the number of the one that the newest connection went to."""

    @property
    def url(self) -> str:
        """Of the native stream."""
        return f"ws://127.0.0.1:{self._port}/v1/stream"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Pass connections for the length of a block."""
        listener = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self._port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            self.cut()

    def cut(self) -> None:
        """Break every connection, on both sides, without a word."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def hold(self) -> None:
        """Pass nothing on, on connections that stay open, as a network does that is gone."""
        self._is_open.clear()

    def resume(self) -> None:
        """Pass what was held."""
        self._is_open.set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await self._connect()
        except ConnectionError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, far_writer))
                group.create_task(self._copy(far_reader, writer))
        except* OSError:
            pass  # one side is gone, and so is the other
        finally:
            self._writers -= {writer, far_writer}
            writer.transport.abort()
            far_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        first = next(self._turns)
        for turn in range(len(self._addresses)):
            number = (first + turn) % len(self._addresses)
            with contextlib.suppress(OSError):
                opened = await asyncio.open_connection(*self._addresses[number])
                self.newest = number
                return opened
        raise ConnectionRefusedError("no server answers")

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._is_open.wait()
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
