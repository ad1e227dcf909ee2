"""What waits for a slow reader: nothing that counts is lost, nothing superseded is kept."""

from __future__ import annotations

import asyncio

import pytest

from stream_client.errors import StreamBroken
from stream_client.inbox import Inbox


async def rest(inbox):
    inbox.close()
    read = []
    while (item := await inbox.get()) is not None:
        read.append(item)
    return read


async def test_gives_everything_in_order():
    inbox = Inbox()
    for item in "abba":
        inbox.put(item)
    assert await rest(inbox) == ["a", "b", "b", "a"]


async def test_the_newest_of_a_key_goes_to_the_end():
    inbox = Inbox()
    inbox.put("old", ("ack",))
    inbox.put("between")
    inbox.put("other", (0, 1))
    inbox.put("new", ("ack",))
    assert await rest(inbox) == ["between", "other", "new"]


async def test_the_last_of_a_key_replaces_and_stays():
    inbox = Inbox()
    inbox.put("running", (0, 1))
    inbox.put("said", (0, 1), is_last=True)
    inbox.put("said too", (0, 1), is_last=True)
    inbox.put("running again", (0, 1))
    assert await rest(inbox) == ["said", "said too", "running again"]


async def test_a_reader_waits_for_the_next():
    inbox = Inbox()
    reading = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    assert not reading.done()
    inbox.put("now")
    assert await reading == "now"


async def test_a_failure_comes_after_what_was_there():
    inbox = Inbox()
    inbox.put("heard")
    inbox.raise_failure()
    inbox.close(StreamBroken("gone"))
    assert inbox.is_closed
    with pytest.raises(StreamBroken, match="gone"):
        inbox.raise_failure()
    assert await inbox.get() == "heard"
    with pytest.raises(StreamBroken, match="gone"):
        await inbox.get()
