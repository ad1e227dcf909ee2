"""The door: whether a session or an upload may begin now, and who is inside.

Refusing happens here and at once, never in a queue behind. Knows nothing of sockets or audio.
Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from stream_server.errors import DiffscribeError, Draining, Overloaded
from stream_server.keyring import ANYONE, Key
from stream_server.session.allowance import Meter
from stream_server.session.driver import Services
from stream_server.transports.quotas import Quotas

Phase = Literal["loading", "ready", "draining"]
Status = Literal["loading", "ready", "draining", "broken"]


def _any_number(inside: int) -> int | None:
    """There is no bound but the places."""
    return None


class Guest(Protocol):
    """Someone inside, who can be sent away when the server stops."""

    async def dismiss(self, error: DiffscribeError) -> None:
        """Say ``error`` and end the connection. Never raises."""


class Admission:
    """Counts who is inside and turns away whoever does not fit.

    Args:
        max_sessions: sessions and uploads inside at once.
        quotas: what each key may use; none is no bound.
    """

    def __init__(self, max_sessions: int, quotas: Quotas | None = None) -> None:
        self._max = max_sessions
        self._quotas = quotas or Quotas()
        self._phase: Phase = "loading"
        self._services: Services | None = None
        self._is_up: Callable[[], bool] = bool
        self._fits: Callable[[int], int | None] = _any_number
        self._inside = 0
        self._heard = 0
        """Of those inside, who takes something of the model."""
        self._guests: dict[Guest, str] = {}
        """With the name of each one's key."""
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

    def open(
        self,
        services: Services,
        is_up: Callable[[], bool],
        fits: Callable[[int], int | None] = _any_number,
    ) -> None:
        """Let clients in from now on, unless the server is about to stop already.

        Args:
            services: what everyone inside is served with.
            is_up: whether the engine takes work.
            fits: how many the model bears, given how many it hears; none is any number.
        """
        self._services, self._is_up, self._fits = services, is_up, fits
        if self._phase == "loading":
            self._phase = "ready"

    def close(self) -> None:
        """Let nobody in any more; who is inside may finish."""
        self._phase = "draining"

    @contextmanager
    def admit(
        self, guest: Guest | None = None, key: Key = ANYONE, *, is_heard: bool = True
    ) -> Iterator[Services]:
        """Give a place and what is needed to serve, until the block is left.

        Args:
            guest: who can be sent away.
            key: whose quota it is.
            is_heard: whether the model hears it. What only carries sessions takes a place, and
                nothing of the model: where one session fits, it must not be in that one's way.

        Raises:
            Draining: the server is about to stop.
            Overloaded: every place is taken, the model is busy, or it is not there.
            LimitReached: the key's quota is used up.
        """
        services = self.check(key)
        self._count(1, is_heard)
        self._quotas.enter(key)
        self._empty.clear()
        if guest is not None:
            self._guests[guest] = key.name
        try:
            yield services
        finally:
            if guest is not None:
                del self._guests[guest]
            self._quotas.leave(key)
            self._count(-1, is_heard)
            if not self._inside:
                self._empty.set()

    def meter(self, key: Key) -> Meter:
        """Return what a session tells of the samples that it hears; see :class:`Quotas`."""
        return self._quotas.meter(key)

    def _count(self, change: int, is_heard: bool) -> None:
        self._inside += change
        self._heard += change * is_heard
        self._fits(self._heard)  # what sessions take is learnt from how many there were, and when

    def check(self, key: Key = ANYONE) -> Services:
        """Return what is needed to serve; raise as :meth:`admit` does."""
        if self._phase == "draining":
            raise Draining("the server is about to stop; connect again, or to another")
        if self._services is None:
            raise Overloaded("the model is still loading; try again in a moment")
        if not self._is_up():
            raise Overloaded("the model has stopped; connect to another server")
        if self._inside >= self._max:
            raise Overloaded(f"all {self._max} places are taken; try again later")
        self._quotas.check(key)
        fits = self._fits(self._heard)
        if fits is not None and self._heard >= fits:
            raise Overloaded(f"the model is busy with {self._heard} sessions; try again later")
        return self._services

    async def dismiss(self, error: DiffscribeError, names: Container[str] | None = None) -> None:
        """Send everyone away, or those alone whose key has one of ``names``."""
        leaving = [each for each, name in self._guests.items() if names is None or name in names]
        await asyncio.gather(*(guest.dismiss(error) for guest in leaving))

    async def wait_until_empty(self) -> None:
        """Return once nobody is inside."""
        await self._empty.wait()


__all__ = ["Admission", "Guest", "Phase", "Status"]
