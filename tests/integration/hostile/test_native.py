"""Anything at all is sent to our own protocol, and to those who watch a session of it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from stream_server.server import Server
from tests.integration.hostile.fuzz import (
    AUDIO,
    CASES,
    JSON,
    SECONDS,
    SOUNDS,
    nearly,
    talk_or_be_refused,
)

pytestmark = pytest.mark.timeout(900)  # thorough takes its time

START = {
    "type": "start",
    "encoding": "pcm_s16le",
    "sample_rate": 16000,
    "channels": 1,
    "channel_mode": "mix",
    "language": "en",
    "words": True,
    "trace": False,
    "steps": 4,
    "partial_interval_ms": 200,
    "endpointing": {"silence_ms": 300, "max_segment_ms": 2000},
    "resume": None,
}
RESUME = {"token": "sesame", "position": 16000}
CONFIGURE = {"type": "configure", "endpointing": {"silence_ms": 500}, "language": None}
SAYS = st.one_of(
    SOUNDS,
    st.text(max_size=30),
    JSON.map(json.dumps),
    nearly(START),
    nearly(CONFIGURE),
    nearly({"type": "flush", "id": "a"}),
    st.sampled_from(['{"type":"flush"}', '{"type":"configure"}', '{"type":"stop"}']),
)
FIRST = st.one_of(
    st.sampled_from(["pcm_s16le", "pcm_f32le", "mulaw", "alaw", "webm", "ogg"]).map(
        lambda encoding: json.dumps({"type": "start", "encoding": encoding})
    ),
    nearly(START),
    nearly(START | {"resume": RESUME}),
    SAYS,
)


@CASES
@given(first=FIRST, frames=st.lists(SAYS, max_size=8), query=st.sampled_from(["", "?x=1", "?%00"]))
def test_stream(server: Server, bystander: str, first: Any, frames: Any, query: str) -> None:
    codes = {1000, 1002, 1003, 1007, 1008, 1009}
    talk_or_be_refused(server, f"/v1/stream{query}", [first, *frames], '{"type":"stop"}', codes)


@CASES
@given(frames=st.lists(SAYS | AUDIO, max_size=4))
def test_watchers_who_talk(server: Server, bystander: str, frames: Any) -> None:
    url = f"{server.url.replace('http', 'ws', 1)}/v1/sessions/{bystander}/watch"
    with connect(url, compression=None) as socket, contextlib.suppress(ConnectionClosed):
        socket.recv(SECONDS)
        for frame in frames:
            socket.send(frame)


@CASES
@given(
    last=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
    | st.integers().map(str)
)
def test_viewers_who_saw_anything_before(
    server: Server, http: httpx.Client, bystander: str, last: str
) -> None:
    headers = {"Last-Event-ID": last.strip()}
    with http.stream("GET", f"/v1/sessions/{bystander}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
