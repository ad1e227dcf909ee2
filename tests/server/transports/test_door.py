"""A client that is not let in is told so before the upgrade, and counted."""

from __future__ import annotations

from starlette.responses import Response
from starlette.websockets import WebSocket

from stream_server.errors import Overloaded
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.door import Door


async def test_a_refusal_is_an_answer_to_the_upgrade() -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "extensions": {"websocket.http.response": {}}}
    websocket = WebSocket(scope, receive, send)  # type: ignore[arg-type]
    metrics = Metrics()
    door = Door(Admission(1), Keys(()), metrics, 1000)
    await door.refuse(websocket, Overloaded("full"), Response("no room", 503))
    assert sent[0]["status"] == 503
    assert sent[1]["body"] == b"no room"
    counted = metrics.render().decode()
    assert 'outcome="refused"} 1.0' in counted
    assert 'code="overloaded"} 1.0' in counted
