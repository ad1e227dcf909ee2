"""Reads the keys again when their file changes or somebody asks, and closes what was withdrawn.

A file that is wrong changes nothing: the keys stay what they were, and the log says what is wrong.
"""

from __future__ import annotations

import asyncio

import structlog

from stream_server.errors import ConfigError, Unauthorized
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys

_log = structlog.stdlib.get_logger(__name__)

_SECONDS = 1.0
"""Between looks at the file."""


class KeyWatch:
    """Keeps the keys of one server current.

    Args:
        keys: which.
        admission: who is inside.
        seconds: between looks at the file.
    """

    def __init__(self, keys: Keys, admission: Admission, seconds: float = _SECONDS) -> None:
        self._keys = keys
        self._admission = admission
        self._seconds = seconds
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have the file read again now, changed or not; on the loop."""
        self._asked.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._asked.wait()
            except TimeoutError:
                if not await asyncio.to_thread(lambda: self._keys.has_changed):
                    continue
            self._asked.clear()
            await self._reload()

    async def _reload(self) -> None:
        try:
            gone = self._keys.reload()
        except ConfigError as error:
            _log.error("keys were not read again", reason=str(error))
            return
        _log.info("keys read again", withdrawn=sorted(gone))
        if gone:
            reason = Unauthorized("the key that this session was opened with has been withdrawn")
            await self._admission.dismiss(reason, gone)


__all__ = ["KeyWatch"]
