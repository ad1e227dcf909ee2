"""The exchange of JSON; media are in tests/integration/test_webrtc_stream.py."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from aiortc import RTCPeerConnection
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from stream_server.config import LimitsConfig
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.answers import refuse_http
from stream_server.transports.auth import Keys
from stream_server.transports.calls import Calls
from stream_server.transports.hub import Hub
from stream_server.transports.ice import IceServer
from stream_server.transports.offer import ICE_PATH, OFFER_PATH, routes

LIMITS = LimitsConfig(media_timeout_ms=5000)


@pytest.fixture
async def http(make_services) -> AsyncIterator[httpx.AsyncClient]:
    admission = Admission(1)
    admission.open(make_services(limits=LIMITS), lambda: True)
    calls = Calls(admission, Hub(10), LIMITS)
    app = Starlette(
        routes=routes(calls, Keys(["k"]), Metrics()),
        exception_handlers={HTTPException: refuse_http},
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers={"X-API-Key": "k"}
    ) as client:
        yield client
    await calls.close()


async def make_offer() -> dict[str, str]:
    client = RTCPeerConnection()
    client.addTransceiver("audio", direction="sendonly")
    client.createDataChannel("transcripts")
    await client.setLocalDescription(await client.createOffer())
    offer = {"sdp": str(client.localDescription.sdp), "type": "offer"}
    await client.close()
    return offer


async def test_an_offer_is_answered(http: httpx.AsyncClient) -> None:
    body = {**await make_offer(), "start": {"language": "en", "words": True}, "name": "stage"}
    answer = await http.post(OFFER_PATH, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"sdp", "type", "session"}
    assert answer.json()["type"] == "answer"
    assert "m=application" in answer.json()["sdp"]
    assert (await http.post(OFFER_PATH, json=body)).status_code == 503


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"sdp": "hello"}, 400),
        ({"sdp": None}, 400),
        ({"type": "answer"}, 400),
        ({"start": {"encoding": "mulaw"}}, 400),
        ({"start": {"speed": 1}}, 400),
        ({"name": "a b"}, 400),
        ({"more": 1}, 400),
    ],
)
async def test_what_is_wrong_is_refused(http, change: dict[str, object], status: int) -> None:
    answer = await http.post(OFFER_PATH, json={**await make_offer(), **change})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == "invalid_field"


async def test_what_is_no_json_is_refused(http: httpx.AsyncClient) -> None:
    for body in (b"{", b"\xff", b"[" * 100_000):
        answer = await http.post(
            OFFER_PATH, content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400
    assert (await http.post(OFFER_PATH, content=b"{}")).status_code == 415
    assert (await http.post(OFFER_PATH, json={}, headers={"X-API-Key": "no"})).status_code == 401


async def test_ice_servers_are_as_browsers_take_them() -> None:
    calls = Calls(Admission(1), Hub(10), LIMITS, [IceServer("turn:t.example", "u", "p")])
    app = Starlette(routes=routes(calls, Keys(["k"]), Metrics()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
        assert (await http.get(ICE_PATH)).status_code == 401
        answer = await http.get(f"{ICE_PATH}?api_key=k")
    assert answer.json() == {
        "iceServers": [{"urls": "turn:t.example", "username": "u", "credential": "p"}]
    }
