"""Bytes to events, however they are cut, and never more of them than is allowed."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_protocol.errors import RemoteProtocolError
from stream_server.transports import wyoming_events as wire
from stream_server.transports.wyoming_events import MAX_HEADER, encode, read_event

CHUNK = {"rate": 16000, "width": 2, "channels": 1}


def line(**header: object) -> bytes:
    return json.dumps(header).encode() + b"\n"


async def read(data: bytes, count: int = 1) -> list[wire.ClientEvent | None]:
    reader = asyncio.StreamReader(MAX_HEADER)
    reader.feed_data(data)
    reader.feed_eof()
    return [await read_event(reader, 1000) for _ in range(count)]


async def test_data_may_be_in_the_line_or_after_it() -> None:
    block = json.dumps({"rate": 8000, "timestamp": None}).encode()
    events = await read(
        line(type="audio-start", data=CHUNK)
        + line(type="audio-chunk", data=CHUNK, data_length=len(block), payload_length=3)
        + block
        + b"abc"
        + line(type="audio-stop", data_length=0, payload_length=None, version="1.9.0"),
        4,
    )
    assert events == [
        wire.AudioStart(16000, 2, 1),
        wire.AudioChunk(8000, 2, 1, b"abc"),
        wire.AudioStop(),
        None,
    ]


async def test_other_events_and_fields_are_passed_over() -> None:
    events = await read(
        line(type="synthesize", data={"text": "x"})
        + line(type="transcribe", data={"language": "en", "context": {"a": 1}})
        + line(type="ping", data={"text": "x"})
        + line(type="describe"),
        4,
    )
    assert events == [wire.Unknown(), wire.Transcribe("en"), wire.Ping("x"), wire.Describe()]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\n", "bad_message"),
        (b"GET / HTTP/1.1\r\n", "bad_message"),
        (b"[" * 60_000 + b"\n", "bad_message"),
        (line(data={}), "bad_message"),
        (line(type="describe", data=[]), "bad_message"),
        (line(type="ping", data_length=-1), "bad_message"),
        (line(type="ping", data_length=2**70), "too_large"),
        (line(type="ping", data_length="9"), "bad_message"),
        (line(type="ping", data_length=2) + b"[]", "bad_message"),
        (line(type="audio-chunk"), "bad_message"),
        (line(type="audio-start", data={**CHUNK, "rate": "x"}), "bad_message"),
        (line(type="ping", data_length=10**12), "too_large"),
        (line(type="audio-chunk", data=CHUNK, payload_length=1001), "too_large"),
        (line(type="audio-chunk", data=CHUNK, payload_length=-5), "bad_message"),
        (b"x" * (MAX_HEADER * 3), "too_large"),
    ],
)
async def test_what_is_no_event_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        await read(data)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "data", [b"", b'{"type"', line(type="ping", data_length=5), line(type="x", payload_length=9)]
)
async def test_a_stream_that_ends_is_an_end(data: bytes) -> None:
    assert await read(data) == [None]


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda length, payload, rest: (
            line(type="audio-chunk", data=CHUNK, data_length=length, payload_length=payload) + rest
        ),
        st.integers(-10, 2000),
        st.integers(-10, 2000),
        st.binary(max_size=2100),
    )
)
def test_anything_is_an_event_an_end_or_refused(data: bytes) -> None:
    async def run() -> None:
        try:
            (event,) = await read(data)
        except RemoteProtocolError:
            return
        assert event is None or isinstance(event, wire.ClientEvent)

    asyncio.run(run())


def test_events_are_written_as_clients_read_them() -> None:
    text = encode(wire.TranscriptChunk("é"))
    header, _, block = text.partition(b"\n")
    assert json.loads(header) == {"type": "transcript-chunk", "data_length": len(block)}
    assert json.loads(block) == {"text": "é"}
    assert encode(wire.TranscriptStop()) == b'{"type":"transcript-stop"}\n'
