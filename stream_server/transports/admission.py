"""The door: whether a session or an upload may begin now, and who is inside.

Refusing happens here and at once, never in a queue behind. Knows nothing of sockets or audio.
Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from stream_server.errors import DiffscribeError, Draining, Overloaded
from stream_server.session.driver import Services

Phase = Literal["loading", "ready", "draining"]
Status = Literal["loading", "ready", "draining", "broken"]


class Guest(Protocol):
    """Someone inside, who can be sent away when the server stops."""

    async def dismiss(self, error: DiffscribeError) -> None:
        """Say ``error`` and end the connection. Never raises."""


class Admission:
    """Counts who is inside and turns away whoever does not fit.

    Args:
        max_sessions: sessions and uploads inside at once.
    """

    def __init__(self, max_sessions: int) -> None:
        self._max = max_sessions
        self._phase: Phase = "loading"
        self._services: Services | None = None
        self._is_up: Callable[[], bool] = bool
        self._inside = 0
        self._guests: set[Guest] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Sessions and uploads that run."""
        return self._inside

    @property
    def sessions(self) -> int:
        """Sessions that run."""
        return len(self._guests)

    @property
    def status(self) -> Status:
        """What the readiness probe says."""
        return "broken" if self._phase == "ready" and not self._is_up() else self._phase

    @property
    def model(self) -> str | None:
        """Name of the loaded model; none while it loads."""
        return self._services.info.name if self._services else None

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639-1 codes that the loaded model knows; none while it loads."""
        return self._services.info.languages if self._services else ()

    def open(self, services: Services, is_up: Callable[[], bool]) -> None:
        """Let clients in from now on, unless the server is about to stop already.

        Args:
            services: what everyone inside is served with.
            is_up: whether the engine takes work.
        """
        self._services, self._is_up = services, is_up
        if self._phase == "loading":
            self._phase = "ready"

    def close(self) -> None:
        """Let nobody in any more; who is inside may finish."""
        self._phase = "draining"

    @contextmanager
    def admit(self, guest: Guest | None = None) -> Iterator[Services]:
        """Give a place and what is needed to serve, until the block is left.

        Raises:
            Draining: the server is about to stop.
            Overloaded: every place is taken, or the model is not there.
        """
        services = self.check()
        self._inside += 1
        self._empty.clear()
        if guest is not None:
            self._guests.add(guest)
        try:
            yield services
        finally:
            if guest is not None:
                self._guests.discard(guest)
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    def check(self) -> Services:
        """Return what is needed to serve; raise as :meth:`admit` does."""
        if self._phase == "draining":
            raise Draining("the server is about to stop; connect again, or to another")
        if self._services is None:
            raise Overloaded("the model is still loading; try again in a moment")
        if not self._is_up():
            raise Overloaded("the model has stopped; connect to another server")
        if self._inside >= self._max:
            raise Overloaded(f"all {self._max} places are taken; try again later")
        return self._services

    async def dismiss(self, error: DiffscribeError) -> None:
        """Send everyone away."""
        await asyncio.gather(*(guest.dismiss(error) for guest in tuple(self._guests)))

    async def wait_until_empty(self) -> None:
        """Return once nobody is inside."""
        await self._empty.wait()


__all__ = ["Admission", "Guest", "Phase", "Status"]
