"""The text of a file comes while it is being worked through."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from stream_server.errors import BadAudio, Overloaded
from stream_server.metrics import Metrics
from stream_server.transports.event_stream import EventStream, run_unless_gone
from stream_server.transports.file_job import FileSegment


def segment(text: str) -> FileSegment:
    return FileSegment(0, 0, 1, text, (), 0.5, "en")


async def ask(*steps: FileSegment | Exception, leaves: bool = False) -> tuple[list[Any], bool]:
    """Return what is sent, and whether what was held was let go."""
    sent: list[Any] = []
    left, closed = asyncio.Event(), False

    async def segments() -> AsyncGenerator[FileSegment, None]:
        nonlocal closed
        try:
            for step in steps:
                if isinstance(step, Exception):
                    raise step
                yield step
            if leaves:
                left.set()
                await asyncio.Event().wait()
        finally:
            closed = True

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    is_free = False

    def free() -> None:
        nonlocal is_free
        is_free = True

    place = contextlib.AsyncExitStack()
    place.callback(free)
    async with asyncio.timeout(5):
        await EventStream(segments(), place, Metrics())({"type": "http"}, receive, send)
    return sent, is_free and closed


def events(sent: list[Any]) -> list[str]:
    return b"".join(m.get("body", b"") for m in sent).decode().split("\n\n")[:-1]


async def test_each_segment_is_an_event() -> None:
    sent, is_free = await ask(segment("one two"), segment("three"))
    assert sent[0]["status"] == 200
    assert dict(sent[0]["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert b"content-length" not in dict(sent[0]["headers"])
    assert [json.loads(event.removeprefix("data: ")) for event in events(sent)] == [
        {"type": "transcript.text.delta", "delta": "one two"},
        {"type": "transcript.text.delta", "delta": " three"},
        {"type": "transcript.text.done", "text": "one two three"},
    ]
    assert not sent[-1]["more_body"]
    assert is_free


async def test_what_is_no_audio_gets_a_status() -> None:
    sent, is_free = await ask(BadAudio("no", field="file"))
    assert sent[0]["status"] == 400
    assert json.loads(sent[1]["body"])["error"]["code"] == "bad_audio"
    assert is_free


async def test_an_error_on_the_way_is_an_event() -> None:
    sent, is_free = await ask(segment("one"), Overloaded("full"))
    name, data = events(sent)[-1].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "overloaded"
    assert not sent[-1]["more_body"]
    assert is_free


async def test_a_client_that_leaves_ends_the_work() -> None:
    sent, is_free = await ask(segment("one"), leaves=True)
    assert len(events(sent)) == 1
    assert is_free


async def test_work_is_run_unless_the_client_is_gone() -> None:
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    assert await run_unless_gone(receive, asyncio.sleep(0, "done")) == "done"
    gone.set()
    with pytest.raises(ClientDisconnect):
        await run_unless_gone(receive, asyncio.sleep(10))
