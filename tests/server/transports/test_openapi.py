"""The description names every endpoint over plain HTTP, and no other; its shapes are the types'."""

from __future__ import annotations

import json

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from stream_server.config import LimitsConfig
from stream_server.metrics import Metrics
from stream_server.transports import openapi
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.calls import Calls
from stream_server.transports.http import WebParts, make_app
from stream_server.transports.hub import Hub
from stream_server.transports.openai_rest import Models

UNDESCRIBED = {
    ("/v1/stream", "get"): "only says that it wants a WebSocket",
    ("/v1/realtime", "get"): "only says that it wants a WebSocket",
}


@pytest.fixture
def app() -> Starlette:
    admission, hub, limits = Admission(4), Hub(100), LimitsConfig()
    calls = Calls(admission, hub, limits)
    return make_app(admission, Keys(()), Metrics(), limits, "1.2", WebParts(hub, calls))


def served(app: Starlette) -> set[tuple[str, str]]:
    """Return path and method of every route over plain HTTP."""
    return {
        (route.path.replace(":path", ""), method.lower())
        for route in app.routes
        if isinstance(route, Route) and not isinstance(route, Mount)
        for method in route.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }


def described(app: Starlette) -> dict[str, dict[str, object]]:
    answer = TestClient(app).get(openapi.PATH)
    assert answer.status_code == 200
    document = answer.json()
    assert document["info"]["version"] == "1.2"
    return document["paths"]


def test_every_route_is_described_and_nothing_else(app: Starlette) -> None:
    paths = described(app)
    found = {(path, method) for path, methods in paths.items() for method in methods}
    assert found == served(app) - set(UNDESCRIBED)
    assert set(UNDESCRIBED) <= served(app)


def test_shapes_are_those_of_the_types() -> None:
    document = openapi.document("1", {"/healthz": Models}, {})
    _, schemas = msgspec.json.schema_components(
        (Models,), ref_template="#/components/schemas/{name}"
    )
    known = document["components"]["schemas"]
    assert known["Models"] == schemas["Models"]
    text = json.dumps(document)
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= set(known)


def test_only_the_probes_and_the_overlay_are_open(app: Starlette) -> None:
    open_ones = {
        path
        for path, methods in described(app).items()
        for operation in methods.values()
        if "security" not in operation  # type: ignore[operator]
    }
    assert open_ones == {"/healthz", "/readyz", "/overlay"}
