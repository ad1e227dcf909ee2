"""What every API over WebSocket needs to let a client in, or to say before the upgrade why not."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from starlette.responses import Response
from starlette.websockets import WebSocket

from stream_server.errors import wire_error
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """Who may come in, and how large their messages may be."""

    admission: Admission
    keys: Keys
    metrics: Metrics
    max_message_bytes: int
    """Of one message, text or binary."""

    async def refuse(self, websocket: WebSocket, error: Exception, answer: Response) -> None:
        """Answer an upgrade with why there is none, and count it.

        Args:
            websocket: not accepted yet.
            error: why.
            answer: says it in the API's own form.
        """
        code = wire_error(error).code
        self.metrics.record_session_refused()
        self.metrics.record_error(code)
        _log.info("session refused", code=code)
        await websocket.send_denial_response(answer)


__all__ = ["Door"]
