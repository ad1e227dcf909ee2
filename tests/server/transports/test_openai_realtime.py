"""Events in, inputs of a session out; whole conversations are in tests/integration."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from starlette.websockets import WebSocket

from stream_protocol.messages import Configure, Final, Flush, Flushed, SpeechStarted, Start, Timings
from stream_server.errors import Draining
from stream_server.recogniser.fake import FAKE_INFO
from stream_server.transports import openai_events as wire
from stream_server.transports.dialect import DialectPeer, Heard
from stream_server.transports.openai_config import Settings
from stream_server.transports.openai_realtime import Conversation
from stream_server.transports.socket import Socket

AUDIO = bytes(4800)


def conversation(dialect: wire.Dialect = "ga") -> Conversation:
    return Conversation("sess_x", dialect, Settings(), FAKE_INFO)


def append(audio: bytes = AUDIO) -> dict[str, Any]:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()}


def update(**inner: Any) -> dict[str, Any]:
    session = {"type": "transcription", "audio": {"input": inner}}
    return {"type": "session.update", "session": session}


def take(talk: Conversation, event: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    heard = talk.hear(json.dumps(event))
    return list(heard.session), list(heard.replies)


def test_the_session_is_announced_in_its_dialect() -> None:
    assert isinstance(conversation().open().replies[0], wire.SessionCreated)
    assert isinstance(conversation("beta").open().replies[0], wire.BetaSessionCreated)


def test_a_session_of_ours_begins_with_the_first_audio() -> None:
    talk = conversation()
    inputs, events = take(talk, update(format={"type": "audio/pcmu"}))
    assert inputs == []
    assert isinstance(events[0], wire.SessionUpdated)
    assert take(talk, append(b"")) == ([], [])
    assert take(talk, append()) == ([Start(encoding="mulaw", sample_rate=8000), AUDIO], [])
    assert take(talk, append()) == ([AUDIO], [])
    assert talk.hear(AUDIO) == Heard([AUDIO])


def test_the_format_is_fixed_by_then_and_the_rest_is_not() -> None:
    talk = conversation()
    take(talk, append())
    _, (error,) = take(talk, update(format={"type": "audio/pcmu"}))
    assert isinstance(error, wire.ErrorEvent)
    assert error.error.param == "session.audio.input.format"
    turn = {"type": "server_vad", "silence_duration_ms": 900}
    (change,), _ = take(talk, update(turn_detection=turn))
    assert isinstance(change, Configure)
    assert change.endpointing is not None
    assert change.endpointing.silence_ms == 900
    assert take(talk, update(turn_detection=turn))[0] == []


def test_the_answer_is_in_the_dialect_of_the_question() -> None:
    event = {"type": "transcription_session.update", "session": {"input_audio_format": "pcm16"}}
    _, (answer,) = take(conversation(), event)
    assert isinstance(answer, wire.BetaSessionUpdated)


def test_a_commit_of_nothing_is_an_error_only_where_turns_are_the_clients() -> None:
    commit = {"type": "input_audio_buffer.commit", "event_id": "mine"}
    talk = conversation()
    assert take(talk, commit) == ([], [])
    take(talk, update(turn_detection=None))
    _, (error,) = take(talk, commit)
    assert isinstance(error, wire.ErrorEvent)
    assert (error.error.code, error.error.event_id) == ("input_audio_buffer_commit_empty", "mine")
    take(talk, append())
    (flush,), events = take(talk, commit)
    assert isinstance(flush, Flush)
    assert isinstance(events[0], wire.Committed)


def test_odd_pieces_do_not_drift_from_the_clock() -> None:
    talk = conversation()
    take(talk, update(turn_detection=None))
    for _ in range(20_000):
        talk.hear(bytes(1023))
    (flush,), events = take(talk, {"type": "input_audio_buffer.commit"})
    assert isinstance(flush, Flush)
    received = 20_000 * 1023 * 16_000 // (24_000 * 2)
    talk.tell(SpeechStarted(0, 0, received - 1440))
    talk.tell(Final(0, 0, 1, "late", 0, 1, None, 0.5, None, Timings(0, 0, 0, 1)))
    (done,) = talk.tell(Flushed(received - 320, flush.id))
    assert isinstance(done, wire.Completed)
    assert (done.item_id, done.transcript) == (events[0].item_id, "late")
    assert done.usage.seconds == pytest.approx(received / 16_000, abs=0.001)


def test_a_clear_forgets() -> None:
    talk = conversation()
    clear = {"type": "input_audio_buffer.clear"}
    assert take(talk, clear)[0] == []
    take(talk, append())
    (flush,), events = take(talk, clear)
    assert isinstance(flush, Flush)
    assert isinstance(events[0], wire.Cleared)


@pytest.mark.parametrize("kind", ["response.create", "conversation.item.create"])
def test_what_belongs_to_a_conversation_is_refused(kind: str) -> None:
    _, (error,) = take(conversation(), {"type": kind})
    assert isinstance(error, wire.ErrorEvent)
    assert error.error.param == "type"


def test_what_nobody_waits_for_is_let_pass() -> None:
    assert take(conversation(), {"type": "some.news"}) == ([], [])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type":null}', '{"type":"session.update"}'])
def test_what_is_no_event_is_told_and_harmless(text: str) -> None:
    talk = conversation()
    heard = talk.hear(text)
    (error,) = heard.replies
    assert not heard.session
    assert isinstance(error, wire.ErrorEvent)
    assert take(talk, append())[0][1] == AUDIO


async def test_a_peer_speaks_and_hears() -> None:
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    incoming.put_nowait({"type": "websocket.connect"})
    websocket = WebSocket({"type": "websocket"}, incoming.get, send)
    await websocket.accept()
    peer = DialectPeer(Socket(websocket, 10_000), conversation())
    await peer.open()
    incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(update())})
    incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(append())})
    assert isinstance(await peer.receive(), Start)
    assert await peer.receive() == AUDIO
    await peer.dismiss(Draining("stops"))
    await peer.dismiss(Draining("stops"))
    assert await peer.receive() is None
    texts = [json.loads(m["text"])["type"] for m in sent if m["type"] == "websocket.send"]
    assert texts == ["session.created", "session.updated"]
    assert sent[-1]["code"] == 1012
