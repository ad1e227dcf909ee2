"""WebRTC by a plain exchange of JSON, for pages of one's own: an offer in, an answer out.

What the session says comes through the data channel that the client opens, in the native protocol's
messages; ``flush``, ``configure`` and ``stop`` go the other way.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from stream_protocol.messages import Start
from stream_server.errors import DiffscribeError, InvalidField, wire_error
from stream_server.metrics import Metrics
from stream_server.transports.answers import error_response, json_response
from stream_server.transports.auth import Keys
from stream_server.transports.body import read_body
from stream_server.transports.calls import Calls
from stream_server.transports.ice import IceServer
from stream_server.transports.sdp import MAX_SDP_BYTES, find_ufrag

OFFER_PATH = "/v1/webrtc/offer"
ICE_PATH = "/v1/webrtc/ice"


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends."""

    sdp: str
    type: Literal["offer"]
    start: Start = Start()
    """Without what the track decides."""
    name: str | None = None
    """Under which viewers find the session as well."""


class OfferAnswer(msgspec.Struct, frozen=True):
    """What the server answers."""

    sdp: str
    type: str
    session: str


class IceServers(msgspec.Struct, frozen=True, rename="camel"):
    """What a browser's RTCPeerConnection takes."""

    ice_servers: tuple[IceServer, ...]


class OfferEndpoints:
    """The exchange.

    Args:
        calls: where sessions begin.
        keys: who may come in.
        metrics: where refusals are counted.
    """

    def __init__(self, calls: Calls, keys: Keys, metrics: Metrics) -> None:
        self._calls = calls
        self._keys = keys
        self._metrics = metrics

    async def offer(self, request: Request) -> Response:
        """Answer an offer."""
        try:
            key = self._keys.check(request, "session").key
            offer = _read(await read_body(request, 2 * MAX_SDP_BYTES, "application/json"))
            ufrag = find_ufrag(offer.sdp)
            call = await self._calls.answer(offer.sdp, ufrag, offer.start, offer.name, key)
        except DiffscribeError as error:
            self._metrics.record_session_refused()
            self._metrics.record_error(wire_error(error).code)
            return error_response(error)
        return json_response(OfferAnswer(call.answer, "answer", call.session))

    async def ice(self, request: Request) -> Response:
        """Say which STUN and TURN servers a client should use."""
        try:
            self._keys.check(request, "session")
        except DiffscribeError as error:
            return error_response(error)
        return json_response(IceServers(self._calls.ice_servers))


def _read(body: bytes) -> Offer:
    try:
        return msgspec.json.decode(body, type=Offer)
    except msgspec.ValidationError as error:
        raise InvalidField(str(error), field="offer") from None
    except (ValueError, RecursionError):
        raise InvalidField("the body is not JSON in UTF-8", field="offer") from None


def routes(calls: Calls, keys: Keys, metrics: Metrics) -> list[BaseRoute]:
    """Return the routes of the exchange.

    Args:
        calls: where sessions begin.
        keys: who may come in.
        metrics: where refusals are counted.
    """
    endpoints = OfferEndpoints(calls, keys, metrics)
    return [
        Route(OFFER_PATH, endpoints.offer, methods=["POST"]),
        Route(ICE_PATH, endpoints.ice),
    ]


__all__ = [
    "ICE_PATH",
    "OFFER_PATH",
    "IceServers",
    "Offer",
    "OfferAnswer",
    "OfferEndpoints",
    "routes",
]
