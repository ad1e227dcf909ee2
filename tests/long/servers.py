"""Servers as processes of their own, which can be killed, stopped by a signal and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence

_READY = re.compile(rb" ready on http://127.0.0.1:(\d+)")
_READY_SECONDS = 300.0
_STOP_SECONDS = 60.0


class ServerProcess:
    """One server, on a port that stays its own when it is started again.

    Args:
        options: of ``stream-server serve``.
    """

    def __init__(self, options: Sequence[str]) -> None:
        self._options = list(options)
        self.port = 0
        """Free ones are found by the first start."""
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        main = "from stream_server.cli import main; main()"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DIFFSCRIBE_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", main, "serve", "--port", str(self.port), *self._options,
            "--log-level", "error", env=kept, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        self._process = process
        assert process.stdout is not None
        async with asyncio.timeout(_READY_SECONDS):
            while line := await process.stdout.readline():
                if found := _READY.search(line):
                    self.port = int(found[1])
                    return
        raise RuntimeError(f"a server ended with status {await process.wait()} before it was ready")

    async def kill(self) -> None:
        """End it at once, as a crash does."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """Ask it to stop and wait until it has; return its status."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        async with asyncio.timeout(_STOP_SECONDS):
            return await self._process.wait()


@contextlib.asynccontextmanager
async def serving(count: int, options: Sequence[str]) -> AsyncIterator[list[ServerProcess]]:
    """Run some servers for the length of a block."""
    servers = [ServerProcess(options) for _ in range(count)]
    try:
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.start())
        yield servers
    finally:
        for server in servers:
            await server.kill()
