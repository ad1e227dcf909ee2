"""What a client sent and the session has not taken yet."""

from __future__ import annotations

import asyncio

import pytest

from stream_protocol.messages import Configure, Flush
from stream_server.session.inbox import Inbox


async def is_waiting(task: asyncio.Task[object]) -> bool:
    for _ in range(3):
        await asyncio.sleep(0)
    return not task.done()


async def test_audio_ripens_until_a_batch_is_together() -> None:
    inbox = Inbox(batch_bytes=400, batch_seconds=60.0, full_bytes=10_000)
    taking = asyncio.create_task(inbox.take())
    inbox.put(bytes(100))
    assert await is_waiting(taking)
    inbox.put(bytes(300))
    assert await taking == [bytes(100), bytes(300)]


async def test_a_little_audio_waits_only_a_moment() -> None:
    inbox = Inbox(batch_bytes=400, batch_seconds=0.01, full_bytes=10_000)
    inbox.put(b"ab")
    assert await inbox.take() == [b"ab"]


@pytest.mark.parametrize("urgent", [Flush(), ValueError("broken")])
async def test_what_is_not_audio_is_ripe_at_once_and_keeps_its_place(
    urgent: Flush | Exception,
) -> None:
    inbox = Inbox(batch_bytes=400, batch_seconds=60.0, full_bytes=10_000)
    inbox.put(b"ab")
    inbox.put(urgent)
    assert await inbox.take() == [b"ab", urgent]
    taking = asyncio.create_task(inbox.take())
    assert await is_waiting(taking)
    taking.cancel()


async def test_a_full_inbox_has_no_room_until_it_is_taken() -> None:
    inbox = Inbox(batch_bytes=400, batch_seconds=60.0, full_bytes=1000)
    inbox.put(bytes(1000))
    assert not inbox.has_room
    waiting = asyncio.create_task(inbox.room())
    assert await is_waiting(waiting)
    await inbox.take()
    await waiting


async def test_a_flood_of_small_messages_fills_it_too() -> None:
    inbox = Inbox(batch_bytes=400, batch_seconds=60.0, full_bytes=1000)
    count = 0
    while inbox.has_room:
        inbox.put(Flush())
        count += 1
    assert count <= 20


async def test_a_long_text_in_a_message_counts() -> None:
    inbox = Inbox(batch_bytes=400, batch_seconds=60.0, full_bytes=100_000)
    inbox.put(Flush(id="x" * 60_000))
    assert inbox.has_room
    inbox.put(Configure(language="x" * 60_000))
    assert not inbox.has_room


async def test_closing_leaves_no_timer() -> None:
    inbox = Inbox(batch_bytes=400, batch_seconds=0.005, full_bytes=1000)
    inbox.put(b"ab")
    inbox.close()
    taking = asyncio.create_task(inbox.take())
    await asyncio.sleep(0.02)
    assert not taking.done()
    taking.cancel()
