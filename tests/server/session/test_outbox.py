"""What a client has not been sent yet."""

from __future__ import annotations

import asyncio

import pytest

from stream_protocol.messages import Ack, Flushed, Partial, ServerMessage, Trace
from stream_server.session.outbox import Outbox


def partial(segment: int, revision: int) -> Partial:
    return Partial(segment, 0, revision, "", "x", 0, 1)


async def drained(outbox: Outbox) -> list[ServerMessage]:
    messages: list[ServerMessage] = []

    async def send(message: ServerMessage) -> None:
        messages.append(message)

    sending = asyncio.create_task(outbox.send_all(send, lambda: None))
    await outbox.sent()
    sending.cancel()
    return messages


async def test_order_is_kept() -> None:
    outbox = Outbox()
    messages = [Ack(1), partial(0, 1), Flushed(1), partial(1, 1)]
    for message in messages:
        outbox.put(message)
    assert await drained(outbox) == messages


async def test_newer_partials_and_acks_take_the_place_of_older_ones() -> None:
    outbox = Outbox()
    for message in (Ack(1), partial(0, 1), partial(1, 1), Flushed(1), Ack(2), partial(0, 2)):
        outbox.put(message)
    assert await drained(outbox) == [partial(1, 1), Flushed(1), Ack(2), partial(0, 2)]


async def test_newer_traces_take_the_place_of_older_ones() -> None:
    outbox = Outbox(limit=3)
    first, second, other = (Trace(s, 0, r, ["x"]) for s, r in ((0, 1), (0, 2), (1, 1)))
    for message in (first, partial(0, 1), other, second):
        outbox.put(message)
    outbox.put(Trace(2, 0, 1, ["there is no room for this"]))
    assert await drained(outbox) == [partial(0, 1), other, second]


async def test_a_full_outbox_takes_no_partials_but_loses_nothing_else() -> None:
    outbox = Outbox(limit=3)
    for number in range(5):
        outbox.put(Flushed(number))
        outbox.put(partial(number, 1))
    assert outbox.is_full
    kept = await drained(outbox)
    assert [each for each in kept if isinstance(each, Flushed)] == [Flushed(n) for n in range(5)]
    assert len(kept) <= 7
    assert not outbox.is_full


async def test_sent_waits_for_the_message_that_is_being_sent() -> None:
    outbox = Outbox()
    gate = asyncio.Event()
    progress: list[int] = []

    async def send(message: ServerMessage) -> None:
        await gate.wait()

    sending = asyncio.create_task(outbox.send_all(send, lambda: progress.append(len(outbox))))
    outbox.put(Ack(1))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(outbox.sent())
    await asyncio.sleep(0.005)
    assert not waiting.done()
    gate.set()
    await waiting
    assert progress == [0]
    sending.cancel()


async def test_an_error_of_sending_reaches_the_caller() -> None:
    outbox = Outbox()
    outbox.put(Ack(1))

    async def send(message: ServerMessage) -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await outbox.send_all(send, lambda: None)
