"""One answer for each message of audio, whatever the engine does meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.websockets import WebSocket

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    Ack,
    Done,
    Final,
    Flush,
    Flushed,
    Partial,
    Start,
    Stop,
    Timings,
    Word,
)
from stream_server.errors import Draining, InvalidField
from stream_server.transports.dialect import DialectPeer, Heard
from stream_server.transports.socket import Socket
from stream_server.transports.vosk import Dialogue

EOF = '{"eof" : 1}'
RESET = '{"reset" : 1}'


def final(segment: int, *words: str) -> Final:
    spoken = [
        Word(word, 16_000 * place, 16_000 * place + 8000, 0.5) for place, word in enumerate(words)
    ]
    text = " ".join(words)
    return Final(segment, 0, 1, text, 0, 16_000, "en", 0.5, spoken, Timings(0, 0, 0, 1))


def shown(reply: object) -> Any:
    return json.loads(msgspec.json.encode(reply))


def answer(heard: Heard) -> Any:
    """The one answer to a message."""
    (reply,) = heard.replies
    return shown(reply)


def test_audio_is_answered_at_once() -> None:
    talk = Dialogue()
    taken = talk.hear(b"\0\0")
    assert taken.session == (Start(sample_rate=8000, words=True), b"\0\0")
    assert answer(taken) == {"partial": ""}
    assert talk.tell(Partial(0, 0, 1, "One,", " two", 0, 1)) == []
    assert answer(talk.hear(b"\0\0")) == {"partial": "one two"}
    assert talk.hear(b"").session == ()
    assert answer(talk.hear(b"")) == {"partial": "one two"}


def test_a_result_waits_for_its_turn() -> None:
    talk = Dialogue()
    talk.hear(b"\0\0")
    talk.tell(Partial(0, 0, 1, "one", "", 0, 1))
    assert talk.tell(final(0, "One", "—", "two.")) == []
    talk.tell(Partial(1, 0, 1, "th", "", 0, 1))
    assert answer(talk.hear(b"\0\0")) == {
        "text": "one two",
        "result": [
            {"conf": 0.5, "end": 0.5, "start": 0.0, "word": "one"},
            {"conf": 0.5, "end": 2.5, "start": 2.0, "word": "two"},
        ],
    }
    assert answer(talk.hear(b"\0\0")) == {"partial": "th"}


def test_several_results_are_one() -> None:
    talk = Dialogue()
    talk.hear(b"\0\0")
    talk.tell(final(0, "one"))
    talk.tell(final(1, "two"))
    assert answer(talk.hear(b"\0\0"))["text"] == "one two"


def test_the_end_has_what_is_left() -> None:
    talk = Dialogue()
    talk.hear(b"\0\0")
    assert talk.hear('{"eof":1}').session == (Stop(),)
    assert talk.tell(final(0, "one")) == []
    assert talk.tell(Ack(1)) == []
    assert shown(*talk.tell(Done(1, 1)))["text"] == "one"


def test_the_end_alone_is_a_session_too() -> None:
    assert Dialogue("en").hear(EOF).session == (
        Start(sample_rate=8000, language="en", words=True),
        Stop(),
    )
    assert shown(*Dialogue().tell(Done(0, 0))) == {"text": ""}


def test_a_reset_is_answered_with_its_result() -> None:
    talk = Dialogue()
    talk.hear(b"\0\0")
    assert talk.hear(RESET).session == (Flush(),)
    talk.tell(final(0, "one"))
    assert answer(talk.hear(b"\0\0")) == {"partial": ""}  # it belongs to the reset
    assert shown(*talk.tell(Flushed(1)))["text"] == "one"


@pytest.mark.parametrize(
    ("config", "rate"),
    [({"sample_rate": 16000}, 16000), ({"sample_rate": 48000.0, "phrase_list": ["a"]}, 48000)],
)
def test_the_rate_is_set_before_the_audio(config: object, rate: int) -> None:
    talk = Dialogue()
    taken = talk.hear(json.dumps({"config": config}))
    assert taken == Heard()
    assert talk.hear(b"\0\0").session[0] == Start(sample_rate=rate, words=True)
    assert talk.hear('{"config":{"sample_rate":8000}}').session == ()
    assert talk.hear(b"\0\0").session == (b"\0\0",)


def test_words_and_alternatives_are_as_asked_for() -> None:
    talk = Dialogue()
    talk.hear('{"config":{"words":0}}')
    talk.hear(b"\0\0")
    talk.tell(final(0, "one"))
    assert answer(talk.hear(b"\0\0")) == {"text": "one"}
    talk.hear('{"config":{"words":true,"max_alternatives":3}}')
    talk.tell(final(1, "two"))
    word = {"conf": 0.5, "end": 0.5, "start": 0.0, "word": "two"}
    assert answer(talk.hear(b"\0\0")) == {
        "alternatives": [{"confidence": 0.5, "text": "two", "result": [word]}]
    }


@pytest.mark.parametrize("rate", [0, 7, -1, 1e300, 44100.5])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(InvalidField, match="sample_rate"):
        Dialogue().hear(json.dumps({"config": {"sample_rate": rate}}))


@given(st.lists(st.text() | st.binary() | st.sampled_from([EOF, RESET]), max_size=8))
def test_anything_is_taken_or_refused(messages: list[str | bytes]) -> None:
    talk = Dialogue()
    for message in messages:
        try:
            taken = talk.hear(message)
        except (RemoteProtocolError, InvalidField):
            return
        assert bool(taken.replies) == isinstance(message, bytes)


async def test_a_peer_answers_and_closes() -> None:
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    incoming.put_nowait({"type": "websocket.connect"})
    websocket = WebSocket({"type": "websocket"}, incoming.get, send)
    await websocket.accept()
    peer = DialectPeer(Socket(websocket, 1000), Dialogue())
    incoming.put_nowait({"type": "websocket.receive", "bytes": b"\0\0"})
    assert isinstance(await peer.receive(), Start)
    assert await peer.receive() == b"\0\0"
    await peer.send(Done(1, 0))
    await peer.dismiss(Draining("stops"))
    assert await peer.receive() is None
    assert [json.loads(m["text"]) for m in sent if "text" in m] == [{"partial": ""}, {"text": ""}]
    assert sent[-1]["code"] == 1012
