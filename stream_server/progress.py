"""Something to look at while a person waits: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.status import Status

_BAR = 20
"""Characters of a bar."""


class Progress:
    """Shows that something goes on, with the seconds that it took at the end.

    Args:
        what: in the present participle, as "loading model embedded".
        stream: none is stderr; stdout stays free for results.
    """

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        self._what = what
        self._stream = stream or sys.stderr
        self._status: Status | None = None
        self._began = time.monotonic()
        self._is_running = False

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._is_running = True
        if self._stream.isatty():
            self._status = Console(file=self._stream).status(f"{self._what} …")
            self._status.start()
        else:
            print(f"{self._what} ...", file=self._stream, flush=True)
        return self

    def report(self, what: str, done: int, total: int) -> None:
        """Show how far a part of it is; may be called from another thread.

        Args:
            what: in the present participle.
            done: parts that are done.
            total: parts that there are.
        """
        if not self._is_running:
            return
        if self._status is not None:
            filled = _BAR * done // total
            bar = "━" * filled + "╌" * (_BAR - filled)
            self._status.update(f"{self._what} … {what} {bar} {done}/{total}")
        elif done in (0, total):
            print(f"{what}: {done} of {total}", file=self._stream, flush=True)

    def stop(self) -> None:
        """Say that it is done; harmless if that has been said."""
        if self._is_running:
            self._clear()
            seconds = time.monotonic() - self._began
            print(f"{self._what}: done in {seconds:.1f} s", file=self._stream, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clear()

    def _clear(self) -> None:
        self._is_running = False
        if self._status is not None:
            self._status.stop()


__all__ = ["Progress"]
