"""What is where."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection
from starlette.routing import Match

from stream_server.errors import InvalidField
from stream_server.metrics import Metrics
from stream_server.recogniser.fake import FAKE_INFO
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.deepgram.api import FluxApi, LiveApi, routes
from stream_server.transports.dialect import Call
from stream_server.transports.door import Door


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("websocket", "GET", "/v1/listen"),
        ("websocket", "GET", "/v2/listen"),
        ("http", "POST", "/v1/listen"),
    ],
)
def test_every_path_has_its_route(kind: str, method: str, path: str) -> None:
    found = routes(Door(Admission(1), Keys(()), Metrics(), 1000))
    scope = {"type": kind, "method": method, "path": path, "headers": []}
    assert [route.matches(scope)[0] for route in found].count(Match.FULL) == 1


@pytest.mark.parametrize("api", [LiveApi(), FluxApi()])
def test_the_query_is_read_before_the_upgrade(api) -> None:
    def connection(query: bytes) -> HTTPConnection:
        return HTTPConnection({"type": "http", "headers": [], "query_string": query})

    raw = b"model=x&encoding=mulaw&sample_rate=8000"
    call = Call()
    (start,) = api.begin(connection(raw), call, FAKE_INFO).open().session
    assert (start.encoding, start.sample_rate) == ("mulaw", 8000)
    with pytest.raises(InvalidField):
        api.begin(connection(b"encoding=mulaw"), call, FAKE_INFO)
    assert api.headers(call) == {"dg-request-id": call.request_id}
