"""OpenAI's realtime transcription sessions over WebSocket: ``/v1/realtime``, GA and beta.

A session of ours begins with the first audio, since the format may be set until then. What a client
cannot have is answered by an ``error`` event that does not end the session, as OpenAI does; but
LiveKit and Pipecat end theirs at any, so what is harmless is let pass in silence, and what another
connection may cure is said by the close code alone.
"""

from __future__ import annotations

from msgspec import UNSET
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from stream_protocol.messages import ClientMessage, ServerMessage
from stream_server.errors import InvalidField, error_message
from stream_server.recogniser.interface import RecogniserInfo
from stream_server.transports import openai_config as config
from stream_server.transports import openai_events as wire
from stream_server.transports import openai_secrets
from stream_server.transports.answers import refusal
from stream_server.transports.dialect import NOTHING, Api, Call, Dialect, DialectEndpoint, Heard
from stream_server.transports.door import Door
from stream_server.transports.openai_turns import Turns, error_detail

PATH = "/v1/realtime"

_SUBPROTOCOL = "realtime"
_BETA_SUBPROTOCOL = "openai-beta.realtime-v1"
_NOT_HERE = ("response.", "conversation.item.", "output_audio_buffer.")
"""Events of a conversation with a model, which a client would wait for in vain."""


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

    def open(self) -> Heard:
        """Announce the session."""
        event_id = self._turns.event_id()
        if self._dialect == "beta":
            return Heard(replies=[wire.BetaSessionCreated(event_id, self._beta())])
        return Heard(replies=[wire.SessionCreated(event_id, self._ga())])

    def hear(self, frame: str | bytes) -> Heard:
        """Take a frame of the client; what is wrong is answered, and ends nothing."""
        if isinstance(frame, bytes):
            return Heard(self._append(frame))
        event_id = None
        try:
            envelope = wire.decode(frame, wire.Envelope)
            event_id = envelope.event_id
            return self._carry_out(envelope, frame)
        except InvalidField as error:
            return self._refuse(error_detail(error_message(error), event_id))

    def tell(self, message: ServerMessage) -> list[wire.Event]:
        """Return what a message of our session means to the client."""
        return self._turns.show(message)

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return both as they are."""
        return code, reason

    def _refuse(self, detail: wire.ErrorDetail) -> Heard:
        return Heard(replies=[wire.ErrorEvent(self._turns.event_id(), detail)])

    def _carry_out(self, envelope: wire.Envelope, data: str) -> Heard:
        match kind := envelope.type:
            case "input_audio_buffer.append":
                return Heard(self._append(wire.decode(data, wire.AudioAppend).audio))
            case "input_audio_buffer.commit":
                return self._commit(envelope.event_id)
            case "input_audio_buffer.clear":
                flush, events = self._turns.clear()
                return Heard([flush] if flush else [], events)
            case "session.update" | "transcription_session.update":
                return self._update(kind, wire.decode(data, wire.SessionUpdate).session)
        if kind.startswith(_NOT_HERE):
            raise InvalidField(
                f"{kind[:60]!r} belongs to a conversation; this is a transcription session",
                field="type",
            )
        return NOTHING

    def _append(self, audio: bytes) -> list[ClientMessage | bytes]:
        if not audio:
            return []
        # From the sum: rounded piece by piece, it would drift away from the session's clock.
        self._bytes += len(audio)
        self._turns.hear(self._settings.samples(self._bytes))
        if self._is_started:
            return [audio]
        self._is_started = True
        return [self._settings.start(), audio]

    def _commit(self, event_id: str | None) -> Heard:
        if self._turns.has_audio:
            flush, events = self._turns.commit()
            return Heard([flush], events)
        if not self._turns.is_manual:
            return NOTHING  # the server has committed it already
        detail = wire.ErrorDetail(
            "invalid_request_error",
            "input_audio_buffer_commit_empty",
            "the input audio buffer is empty: append audio before you commit it",
            event_id=event_id,
        )
        return self._refuse(detail)

    def _update(self, kind: str, fields: wire.SessionFields) -> Heard:
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
        return Heard([change] if is_changed else [], [answer])

    def _ga(self) -> wire.GaSession:
        return config.ga_session(self._settings, self._id, self._info.name)

    def _beta(self) -> wire.BetaSession:
        return config.beta_session(self._settings, self._id, self._info.name)


class RealtimeApi(Api):
    """``/v1/realtime``."""

    def subprotocol(self, connection: HTTPConnection) -> str | None:
        """Return the one of the API, where it is offered."""
        return _SUBPROTOCOL if _SUBPROTOCOL in connection.scope.get("subprotocols", []) else None

    def begin(self, connection: HTTPConnection, call: Call, info: RecogniserInfo) -> Dialect:
        """Return the translator for a client, set as its secret and its address say.

        Raises:
            InvalidField: a parameter of the address is wrong.
        """
        query = connection.query_params
        transcription = wire.TranscriptionFields(
            model=query.get("model", UNSET), language=query.get("language", UNSET)
        )
        fields = wire.SessionFields(input_audio_transcription=transcription)
        settings = openai_secrets.read_settings(call.caller)
        settings = config.update(settings, fields, info)
        name = f"sess_{call.request_id.replace('-', '')[:24]}"
        return Conversation(name, _dialect(connection), settings, info)


def _dialect(connection: HTTPConnection) -> wire.Dialect:
    is_beta = "realtime=v1" in connection.headers.get("openai-beta", "")
    is_beta = is_beta or _BETA_SUBPROTOCOL in connection.scope.get("subprotocols", [])
    return "beta" if is_beta else "ga"


async def _upgrade_required(request: Request) -> Response:
    answer = refusal(426, "upgrade_required", "connect with a WebSocket client")
    answer.headers.update({"Upgrade": "websocket", "Connection": "Upgrade"})
    return answer


def routes(door: Door) -> list[BaseRoute]:
    """Return the routes of the API."""
    return [
        WebSocketRoute(PATH, DialectEndpoint(RealtimeApi(), door).__call__),
        Route(PATH, door.keys.guard(_upgrade_required)),
        *openai_secrets.routes(door.admission, door.keys),
    ]


__all__ = ["PATH", "Conversation", "RealtimeApi", "routes"]
