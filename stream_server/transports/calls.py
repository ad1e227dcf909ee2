"""The WebRTC sessions of a server: from an offer to a running session, and to its end.

One place for every way in which an offer may come (WHIP, plain JSON). Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from stream_protocol.messages import Start
from stream_server.config import LimitsConfig
from stream_server.errors import Draining, InvalidField
from stream_server.keyring import ANYONE, Key
from stream_server.session.allowance import Meter
from stream_server.session.driver import Services, run_session
from stream_server.session.validation import validate_start
from stream_server.transports.admission import Admission
from stream_server.transports.hub import Hub
from stream_server.transports.ice import IceServer
from stream_server.transports.webrtc import WebRtcPeer

_AUDIO = ("encoding", "sample_rate", "channels", "channel_mode", "resume")
"""Fields of ``start`` that the track decides."""


@dataclass(frozen=True, slots=True)
class Call:
    """A client that was answered."""

    session: str
    """Names the session, and lets whoever knows it end it: 122 random bits."""
    answer: str = field(repr=False)
    """SDP."""
    ufrag: str | None
    """Of the client's ICE; none where its offer did not say."""
    peer: WebRtcPeer = field(repr=False)


class Calls:
    """Those that run.

    Args:
        admission: the door.
        hub: where their sessions are heard.
        limits: of each.
        ice_servers: that both sides may use.
    """

    def __init__(
        self,
        admission: Admission,
        hub: Hub,
        limits: LimitsConfig,
        ice_servers: Sequence[IceServer] = (),
    ) -> None:
        self._admission = admission
        self._hub = hub
        self._limits = limits
        self._calls: dict[str, Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.ice_servers = tuple(ice_servers)

    async def answer(
        self,
        offer: str,
        ufrag: str | None,
        start: Start,
        name: str | None = None,
        key: Key = ANYONE,
    ) -> Call:
        """Answer an offer and begin its session.

        Args:
            offer: SDP.
            ufrag: of the client's ICE.
            start: what the session begins with; the track says what audio it is.
            name: under which viewers of the same owner find the session as well.
            key: whose session it is.

        Raises:
            InvalidField: the offer or ``start`` cannot be served.
            Draining: the server is about to stop.
            Overloaded: every place is taken.
            LimitReached: the key's quota is used up.
        """
        start = _with_track(start)
        if name is not None and not re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII):
            raise InvalidField("a name has 1 to 64 of A-Z a-z 0-9 _ . -", field="name")
        session_id = uuid.uuid4().hex
        services = self._admission.check(key)
        validate_start(start, services.info)
        log = self._hub.open(session_id, name, key.owner)
        peer = WebRtcPeer(start, log, self._limits, self.ice_servers)
        with contextlib.ExitStack() as stack:
            stack.callback(self._hub.leave, session_id)
            stack.enter_context(self._admission.admit(peer, key))
            try:
                answer = await peer.answer(offer)
            except BaseException:
                await peer.close(1000, "")
                raise
            call = Call(session_id, answer, ufrag, peer)
            self._calls[session_id] = call
            meter = self._admission.meter(key)
            task = asyncio.create_task(self._serve(call, services, meter, stack.pop_all()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call

    def find(self, session_id: str) -> Call | None:
        """Return a call that runs, and was not ended."""
        return self._calls.get(session_id)

    def end(self, session_id: str) -> bool:
        """Take no more audio of a call; return whether there was one."""
        call = self._calls.pop(session_id, None)
        if call is not None:
            call.peer.stop()
        return call is not None

    async def close(self) -> None:
        """End every call at once."""
        for call in tuple(self._calls.values()):
            await call.peer.dismiss(Draining("the server stops now; connect to another"))
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(
        self, call: Call, services: Services, meter: Meter, stack: contextlib.ExitStack
    ) -> None:
        with stack, structlog.contextvars.bound_contextvars(session=call.session):
            try:
                await run_session(call.peer, services, call.session, meter)
            finally:
                self._calls.pop(call.session, None)
                await call.peer.close(1000, "")


def _with_track(start: Start) -> Start:
    """Return ``start`` for a track of aiortc's decoded Opus.

    Raises:
        InvalidField: it announces other audio.
    """
    for name in _AUDIO:
        if getattr(start, name) != getattr(Start(), name):
            raise InvalidField(
                f"{name} cannot be set over WebRTC: the track says what audio it is; leave it out",
                field=f"$.{name}",
            )
    return Start(
        encoding="pcm_s16le",
        sample_rate=48000,
        channels=2,
        language=start.language,
        partial_interval_ms=start.partial_interval_ms,
        steps=start.steps,
        words=start.words,
        endpointing=start.endpointing,
        trace=start.trace,
    )


__all__ = ["Call", "Calls"]
