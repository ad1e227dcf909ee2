"""Logs of sessions and who follows them; no sockets."""

from __future__ import annotations

import asyncio
import json

import pytest

from stream_protocol.messages import (
    Ack,
    Done,
    Final,
    Limits,
    Notice,
    Partial,
    Ready,
    ServerMessage,
    Timings,
    Trace,
)
from stream_server.errors import LimitReached
from stream_server.transports.hub import KEPT_SECONDS, Event, Hub, SessionLog


def partial(segment: int, revision: int) -> Partial:
    return Partial(segment, 0, revision, "", f"r{revision}", 0, 100)


def final(segment: int) -> Final:
    return Final(segment, 0, 9, f"text {segment}", 0, 100, "en", 1.0, None, Timings(1, 1, 1, 1))


def kinds(events: list[Event]) -> list[str]:
    return [json.loads(event.text)["type"] for event in events]


def filled(*messages: ServerMessage, bound: int = 100) -> SessionLog:
    log = SessionLog("s", bound)
    for message in messages:
        log.publish(message)
    return log


def test_useless_events_are_replaced() -> None:
    log = filled(partial(0, 1), Ack(5), partial(1, 1), partial(0, 2), final(0), partial(1, 2))
    assert kinds(log.after(0)) == ["final", "partial"]
    assert [event.number for event in log.after(0)] == [4, 5]
    assert [event.number for event in log.after(4)] == [5]
    assert log.finals() == [final(0)]
    assert log.last == 5


def test_of_traces_the_newest_of_each_segment_stays() -> None:
    log = filled(Trace(0, 0, 1, ["a"]), partial(0, 1), Trace(0, 0, 2, ["b"]), Trace(1, 0, 1, ["c"]))
    assert kinds(log.after(0)) == ["partial", "trace", "trace"]


def test_the_resume_token_stays_with_its_client() -> None:
    log = filled(Ready("s", "secret", "fake", ["en"], Limits(1, 1, 1, 1)))
    assert "secret" not in log.after(0)[0].text


async def test_a_viewer_gets_what_was_and_what_comes() -> None:
    log = filled(final(0))
    seen: list[str] = []

    async def view() -> None:
        async for events in log.follow():
            seen.extend(kinds(events))

    viewers = [asyncio.create_task(view()) for _ in range(50)]
    await asyncio.sleep(0)
    log.publish(final(1))
    log.publish(Done(1, 2))
    log.close()
    log.publish(final(2))
    await asyncio.gather(*viewers)
    assert seen.count("final") == 100
    assert seen.count("done") == 50


async def test_a_late_viewer_of_a_long_session_gets_what_is_kept() -> None:
    log = filled(*map(final, range(30)), bound=10)
    log.close()
    pieces = [events async for events in log.follow()]
    assert [event.number for events in pieces for event in events] == list(range(21, 31))


async def test_a_viewer_that_falls_behind_is_told_and_holds_nobody_up() -> None:
    log = filled(final(0), bound=10)
    viewer = aiter(log.follow())
    assert len(await anext(viewer)) == 1
    for number in range(1, 20):
        log.publish(final(number))
    with pytest.raises(LimitReached, match="more than 10 events"):
        await anext(viewer)


async def test_partials_alone_make_nobody_fall_behind() -> None:
    log = filled(final(0), bound=10)
    viewer = aiter(log.follow())
    await anext(viewer)
    for revision in range(1, 1000):
        log.publish(partial(1, revision))
    assert [event.number for event in await anext(viewer)] == [1000]


async def test_quiet_is_told_where_wanted() -> None:
    viewer = aiter(SessionLog("s", 10).follow(quiet_seconds=0.01))
    assert await anext(viewer) == []


def test_a_hub_finds_sessions_by_id_and_by_name() -> None:
    hub = Hub(10)
    hub.open("one", "stage")
    hub.publish("one", final(0))
    assert hub.find("one") is hub.find("stage") is hub.open("one")
    assert hub.find("two") is None
    hub.open("two", "stage")
    assert hub.find("stage") is hub.find("two")
    hub.open("three", "one")
    assert hub.find("one") is hub.open("one"), "a name never hides an id"


def test_owners_have_names_of_their_own() -> None:
    hub = Hub(10)
    hub.open("one", "stage", "ann")
    hub.open("two", "stage", "bob")
    assert hub.find("stage", "ann") is hub.open("one")
    assert hub.find("stage", "bob") is hub.open("two")
    assert hub.find("stage") is hub.find("stage", "eve") is None
    assert hub.find("one", "bob") is hub.open("one"), "whoever knows an id was told"


def test_what_is_over_stays_for_a_while() -> None:
    now = 0.0
    hub = Hub(10, lambda: now)
    hub.publish("s", Notice("c", "m"))
    hub.open("s", "stage")
    hub.leave("s")
    hub.leave("s")
    found = hub.find("stage")
    assert found is not None
    assert found.is_over
    now = KEPT_SECONDS + 1
    assert hub.find("s") is None
    assert hub.find("stage") is None


def test_only_so_many_that_are_over_stay() -> None:
    hub = Hub(10)
    for number in range(300):
        hub.publish(str(number), Notice("c", "m"))
        hub.leave(str(number))
    assert hub.find("0") is None
    assert hub.find("299") is not None


async def test_closing_sends_every_viewer_home() -> None:
    hub = Hub(10)
    log = hub.open("s")
    hub.close()
    assert [events async for events in log.follow()] == []
