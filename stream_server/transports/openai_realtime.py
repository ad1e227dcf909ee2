"""OpenAI's realtime transcription sessions over WebSocket: ``/v1/realtime``, GA and beta.

A session of ours begins with the first audio, since the format may be set until then. What a client
cannot have is answered by an ``error`` event that does not end the session, as OpenAI does; but
LiveKit and Pipecat end theirs at any, so what is harmless is let pass in silence, and what another
connection may cure is said by the close code alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Sequence

import structlog
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from stream_protocol.messages import ClientMessage, ServerMessage
from stream_server.errors import DiffscribeError, InvalidField, error_message, wire_error
from stream_server.metrics import Metrics
from stream_server.recogniser.interface import RecogniserInfo
from stream_server.session.driver import run_session
from stream_server.transports import openai_config as config
from stream_server.transports import openai_events as wire
from stream_server.transports import openai_secrets
from stream_server.transports.admission import Admission
from stream_server.transports.answers import refusal
from stream_server.transports.auth import Keys
from stream_server.transports.openai_secrets import ClientSecrets
from stream_server.transports.openai_turns import Turns, error_detail
from stream_server.transports.socket import GRACE_SECONDS, Socket, refuse

PATH = "/v1/realtime"

_SUBPROTOCOL = "realtime"
_KEY_SUBPROTOCOL = "openai-insecure-api-key."
_BETA_SUBPROTOCOL = "openai-beta.realtime-v1"
_NOT_HERE = ("response.", "conversation.item.", "output_audio_buffer.")
"""Events of a conversation with a model, which a client would wait for in vain."""

_Input = ClientMessage | bytes
"""What a session of ours takes."""


class Conversation:
    """What one client and one session of ours say to each other. Pure.

    Args:
        session_id: as the client sees it.
        dialect: in which the session is announced.
        settings: to begin with.
        info: what the model knows.
    """

    def __init__(
        self,
        session_id: str,
        dialect: wire.Dialect,
        settings: config.Settings,
        info: RecogniserInfo,
    ) -> None:
        self._id = session_id
        self._dialect = dialect
        self._settings = settings
        self._info = info
        self._turns = Turns(session_id, dialect, is_manual=settings.turn is None)
        self._is_started = False
        self._bytes = 0
        """Of audio, all in one format."""

    def open(self) -> list[wire.Event]:
        """Return what is said first."""
        event_id = self._turns.event_id()
        if self._dialect == "beta":
            return [wire.BetaSessionCreated(event_id, self._beta())]
        return [wire.SessionCreated(event_id, self._ga())]

    def take(self, data: str | bytes) -> tuple[list[_Input], list[wire.Event]]:
        """Return what a message means to our session, and what is answered at once."""
        if isinstance(data, bytes):
            return self._append(data), []
        event_id = None
        try:
            envelope = wire.decode(data, wire.Envelope)
            event_id = envelope.event_id
            return self._carry_out(envelope, data)
        except InvalidField as error:
            detail = error_detail(error_message(error), event_id)
            return [], [wire.ErrorEvent(self._turns.event_id(), detail)]

    def show(self, message: ServerMessage) -> list[wire.Event]:
        """Return what a message of our session means to the client."""
        return self._turns.show(message)

    def _carry_out(
        self, envelope: wire.Envelope, data: str
    ) -> tuple[list[_Input], list[wire.Event]]:
        match kind := envelope.type:
            case "input_audio_buffer.append":
                return self._append(wire.decode(data, wire.AudioAppend).audio), []
            case "input_audio_buffer.commit":
                return self._commit(envelope.event_id)
            case "input_audio_buffer.clear":
                flush, events = self._turns.clear()
                return [flush] if flush else [], events
            case "session.update" | "transcription_session.update":
                return self._update(kind, wire.decode(data, wire.SessionUpdate).session)
        if kind.startswith(_NOT_HERE):
            raise InvalidField(
                f"{kind[:60]!r} belongs to a conversation; this is a transcription session",
                field="type",
            )
        return [], []

    def _append(self, audio: bytes) -> list[_Input]:
        if not audio:
            return []
        # From the sum: rounded piece by piece, it would drift away from the session's clock.
        self._bytes += len(audio)
        self._turns.hear(self._settings.samples(self._bytes))
        if self._is_started:
            return [audio]
        self._is_started = True
        return [self._settings.start(), audio]

    def _commit(self, event_id: str | None) -> tuple[list[_Input], list[wire.Event]]:
        if self._turns.has_audio:
            flush, events = self._turns.commit()
            return [flush], events
        if not self._turns.is_manual:
            return [], []  # the server has committed it already
        detail = wire.ErrorDetail(
            "invalid_request_error",
            "input_audio_buffer_commit_empty",
            "the input audio buffer is empty: append audio before you commit it",
            event_id=event_id,
        )
        return [], [wire.ErrorEvent(self._turns.event_id(), detail)]

    def _update(
        self, kind: str, fields: wire.SessionFields
    ) -> tuple[list[_Input], list[wire.Event]]:
        before = self._settings
        settings = config.update(before, fields, self._info)
        is_other_format = (settings.format, settings.rate) != (before.format, before.rate)
        if self._is_started and is_other_format:
            raise InvalidField(
                "the audio format cannot be changed once there is audio; connect again",
                field="session.audio.input.format",
            )
        self._settings = settings
        self._turns.is_manual = settings.turn is None
        event_id = self._turns.event_id()
        answer: wire.Event = wire.SessionUpdated(event_id, self._ga())
        if kind != "session.update":
            answer = wire.BetaSessionUpdated(event_id, self._beta())
        change = settings.configure()
        is_changed = self._is_started and change != before.configure()
        return [change] if is_changed else [], [answer]

    def _ga(self) -> wire.GaSession:
        return config.ga_session(self._settings, self._id, self._info.name)

    def _beta(self) -> wire.BetaSession:
        return config.beta_session(self._settings, self._id, self._info.name)


class RealtimePeer:
    """The client of one session.

    Args:
        socket: its connection.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._conversation: Conversation | None = None
        self._inputs: deque[_Input] = deque()

    async def open(self, conversation: Conversation) -> None:
        """Begin, once the connection is accepted.

        Raises:
            ConnectionError: the client is gone.
        """
        self._conversation = conversation
        await self._send(conversation.open())

    async def receive(self) -> _Input | None:
        """Return what the session has to take next; none when the client is gone.

        Raises:
            TooLarge: a message is over the limit.
        """
        assert self._conversation is not None
        while not self._inputs:
            data = await self._socket.receive()
            if data is None:
                return None
            inputs, events = self._conversation.take(data)
            self._inputs.extend(inputs)
            with contextlib.suppress(ConnectionError):  # reading on says the same
                await self._send(events)
        return self._inputs.popleft()

    async def send(self, message: ServerMessage) -> None:
        """Say what ``message`` means.

        Raises:
            ConnectionError: the client is gone.
        """
        if self._conversation is not None:
            await self._send(self._conversation.show(message))

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; harmless if it is closed."""
        await self._socket.close(code, reason)

    async def dismiss(self, error: DiffscribeError) -> None:
        """Close the connection; the code says why. Never raises."""
        wire_form = wire_error(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.close(wire_form.close_code, wire_form.code)

    async def _send(self, events: Sequence[wire.Event]) -> None:
        for event in events:
            await self._socket.send(wire.encode(event))


class RealtimeEndpoint:
    """``/v1/realtime``: lets a client in, or says before the upgrade why not.

    Args:
        admission: the door.
        keys: who may come in.
        metrics: where refusals are counted.
        secrets: whose keys open it too.
        max_message_bytes: of one WebSocket message.
    """

    def __init__(
        self,
        admission: Admission,
        keys: Keys,
        metrics: Metrics,
        secrets: ClientSecrets,
        max_message_bytes: int,
    ) -> None:
        self._admission = admission
        self._keys = keys
        self._metrics = metrics
        self._secrets = secrets
        self._max_bytes = max_message_bytes

    async def __call__(self, websocket: WebSocket) -> None:
        """Serve one connection to its end."""
        peer = RealtimePeer(Socket(websocket, self._max_bytes))
        with contextlib.ExitStack() as stack:
            try:
                settings = self._check(websocket)
                services = stack.enter_context(self._admission.admit(peer))
                settings = self._ask_for(websocket, settings, services.info)
            except DiffscribeError as error:
                await refuse(websocket, error, self._metrics)
                return
            session_id = uuid.uuid4().hex
            with structlog.contextvars.bound_contextvars(session=session_id):
                offered = websocket.scope.get("subprotocols", [])
                await websocket.accept(_SUBPROTOCOL if _SUBPROTOCOL in offered else None)
                name = f"sess_{session_id[:24]}"
                conversation = Conversation(name, _dialect(websocket), settings, services.info)
                with contextlib.suppress(ConnectionError):
                    await peer.open(conversation)
                await run_session(peer, services, session_id)

    def _check(self, websocket: WebSocket) -> config.Settings:
        """Return what the client's key sets its session to."""
        offered = [
            each.removeprefix(_KEY_SUBPROTOCOL)
            for each in websocket.scope.get("subprotocols", [])
            if each.startswith(_KEY_SUBPROTOCOL)
        ]
        scheme, _, bearer = websocket.headers.get("authorization", "").partition(" ")
        for key in (*offered, *([bearer.strip()] if scheme.lower() == "bearer" else [])):
            if (settings := self._secrets.open(key)) is not None:
                return settings
        self._keys.check(websocket, *offered)
        return config.Settings()

    def _ask_for(
        self, websocket: WebSocket, settings: config.Settings, info: RecogniserInfo
    ) -> config.Settings:
        """Return the settings with what the address names."""
        query = websocket.query_params
        transcription = wire.TranscriptionFields(
            model=query.get("model", UNSET), language=query.get("language", UNSET)
        )
        return config.update(
            settings, wire.SessionFields(input_audio_transcription=transcription), info
        )


def _dialect(websocket: WebSocket) -> wire.Dialect:
    is_beta = "realtime=v1" in websocket.headers.get("openai-beta", "")
    is_beta = is_beta or _BETA_SUBPROTOCOL in websocket.scope.get("subprotocols", [])
    return "beta" if is_beta else "ga"


async def _upgrade_required(request: Request) -> Response:
    answer = refusal(426, "upgrade_required", "connect with a WebSocket client")
    answer.headers.update({"Upgrade": "websocket", "Connection": "Upgrade"})
    return answer


def routes(
    admission: Admission, keys: Keys, metrics: Metrics, max_message_bytes: int
) -> list[BaseRoute]:
    """Return the routes of the API.

    Args:
        admission: the door.
        keys: who may come in.
        metrics: where refusals are counted.
        max_message_bytes: of one WebSocket message.
    """
    secrets = ClientSecrets(keys.derive(b"openai client secrets"))
    endpoint = RealtimeEndpoint(admission, keys, metrics, secrets, max_message_bytes)
    return [
        WebSocketRoute(PATH, endpoint.__call__),
        Route(PATH, _upgrade_required),
        *openai_secrets.routes(admission, keys, secrets),
    ]


__all__ = ["PATH", "Conversation", "RealtimeEndpoint", "RealtimePeer", "routes"]
