"""WHIP's HTTP side; media are in tests/integration/test_webrtc_stream.py."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
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
from stream_server.transports.sdp import find_ufrag
from stream_server.transports.whip import WHIP_PATH, routes
from tests.integration.webrtc import make_offer

LIMITS = LimitsConfig(media_timeout_ms=5000)
SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
KEY = {"Authorization": "Bearer sesame"}
CANDIDATE = "a=mid:0\r\na=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n"


@pytest.fixture
async def offer() -> str:
    return await make_offer()


def application(calls: Calls) -> httpx.AsyncClient:
    app = Starlette(
        routes=routes(calls, Keys(["sesame"]), Metrics()),
        exception_handlers={HTTPException: refuse_http},
    )
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=KEY)


@pytest.fixture
async def http(make_services) -> AsyncIterator[httpx.AsyncClient]:
    admission = Admission(1)
    admission.open(make_services(limits=LIMITS), lambda: True)
    calls = Calls(admission, Hub(10), LIMITS)
    async with application(calls) as client:
        yield client
    await calls.close()


async def test_an_offer_is_answered_and_the_session_ended(http, offer) -> None:
    answer = await http.post(WHIP_PATH, content=offer, headers=SDP)
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/sdp"
    assert "a=candidate:" in answer.text
    assert answer.headers["etag"].startswith('"')
    assert 'rel="urn:x-diffscribe:events"' in answer.headers["link"]
    place = answer.headers["location"]
    assert (await http.post(WHIP_PATH, content=offer, headers=SDP)).status_code == 503
    assert (await http.delete(place)).status_code == 200
    assert (await http.delete(place)).status_code == 404


async def test_a_full_server_says_when_to_come_again(http, offer) -> None:
    await http.post(WHIP_PATH, content=offer, headers=SDP)
    answer = await http.post(WHIP_PATH, content=offer, headers=SDP)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1


async def test_candidates_may_come_later(http, offer) -> None:
    answer = await http.post(WHIP_PATH + "/stage", content=offer, headers=SDP)
    place, etag = answer.headers["location"], answer.headers["etag"]
    own = f"a=ice-ufrag:{find_ufrag(offer)}\r\n"

    async def patch(text: str, **headers: str) -> int:
        merged = {**FRAGMENT, **{k.replace("_", "-").title(): v for k, v in headers.items()}}
        return (await http.patch(place, content=text, headers=merged)).status_code

    assert await patch(own + CANDIDATE, if_match=etag) == 204
    assert await patch(own + CANDIDATE) == 204, "OBS and others send no If-Match"
    assert await patch(CANDIDATE.replace("192.0.2.1", "a.b.local.invalid")) == 204
    assert await patch(CANDIDATE.replace("1 1 udp", "x")) == 204, "what is odd is passed over"
    assert await patch(own + "a=end-of-candidates\r\n") == 204
    assert await patch("a=ice-ufrag:other\r\na=ice-pwd:pw\r\n", if_match="*") == 422
    assert await patch(own + CANDIDATE, if_match='"other"') == 412
    assert await patch("hello") == 400
    assert await patch(CANDIDATE, content_type="text/plain") == 415
    assert await patch("x" * 70_000) == 413
    assert (await http.delete(place)).status_code == 200
    assert await patch(own + CANDIDATE) == 404


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"Content-Type": "text/plain"}, "", 415),
        (SDP, "?words=perhaps", 400),
        (SDP, "?speed=3", 400),
        (SDP, "?language=xx", 400),
        (SDP, "?steps=99", 400),
        ({**SDP, "Authorization": "Bearer wrong"}, "", 401),
    ],
)
async def test_what_is_wrong_is_refused(http, offer, headers, query, status) -> None:
    answer = await http.post(WHIP_PATH + query, content=offer, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_other_methods_are_refused(http) -> None:
    assert (await http.get(WHIP_PATH)).status_code == 405
    assert (await http.put(WHIP_PATH)).status_code == 405
    assert (await http.post(WHIP_PATH + "/a/b")).status_code == 404
    assert (await http.request("DELETE", WHIP_PATH + "/sessions/x")).status_code == 404


async def test_options_say_what_is_taken_and_name_ice_servers_to_friends(make_services) -> None:
    calls = Calls(Admission(1), Hub(10), LIMITS, [IceServer("turn:t.example", "u", "p")])
    async with application(calls) as http:
        answer = await http.options(WHIP_PATH)
        assert (answer.status_code, answer.headers["accept-post"]) == (200, "application/sdp")
        assert 'username="u"' in answer.headers["link"]
        stranger = await http.options(WHIP_PATH, headers={"Authorization": "Bearer wrong"})
        assert stranger.status_code == 200
        assert "link" not in stranger.headers
        answer = await http.options(WHIP_PATH + "/sessions/x")
        assert answer.headers["accept-patch"] == "application/trickle-ice-sdpfrag"
