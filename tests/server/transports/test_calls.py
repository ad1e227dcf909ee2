"""From an offer to a session and to its end, without HTTP."""

from __future__ import annotations

import asyncio

import pytest

from stream_protocol.messages import Resume, Start
from stream_server.config import LimitsConfig
from stream_server.errors import Draining, InvalidField, Overloaded
from stream_server.transports.admission import Admission
from stream_server.transports.calls import Calls
from stream_server.transports.hub import Hub
from tests.integration.webrtc import make_offer

LIMITS = LimitsConfig(media_timeout_ms=1000)


def opened(make_services, max_sessions: int = 2) -> Admission:
    admission = Admission(max_sessions)
    admission.open(make_services(limits=LIMITS), lambda: True)
    return admission


async def test_a_call_takes_a_place_until_it_is_over(make_services) -> None:
    admission, hub = opened(make_services), Hub(10)
    calls = Calls(admission, hub, LIMITS)
    call = await calls.answer(await make_offer(), "ufrag", Start(language="en"), "stage")
    assert call.answer.startswith("v=0")
    assert admission.inside == 1
    assert calls.find(call.session) is call
    assert hub.find("stage") is hub.find(call.session)
    assert calls.end(call.session)
    assert not calls.end(call.session)
    assert calls.find(call.session) is None
    async with asyncio.timeout(10):
        await admission.wait_until_empty()


async def test_a_client_that_does_not_come_is_reaped(make_services) -> None:
    admission = opened(make_services)
    calls = Calls(admission, Hub(10), LIMITS)
    call = await calls.answer(await make_offer(), None, Start())
    async with asyncio.timeout(10):
        await admission.wait_until_empty()
    assert calls.find(call.session) is None


@pytest.mark.parametrize(
    ("start", "name", "field"),
    [
        (Start(encoding="mulaw"), None, "$.encoding"),
        (Start(sample_rate=8000), None, "$.sample_rate"),
        (Start(channels=2), None, "$.channels"),
        (Start(resume=Resume("t", 0)), None, "$.resume"),
        (Start(language="xx"), None, "$.language"),
        (Start(steps=0), None, "$.steps"),
        (Start(), "", "name"),
        (Start(), "a/b", "name"),
        (Start(), "é", "name"),
        (Start(), "x" * 65, "name"),
    ],
)
async def test_what_cannot_be_served_is_refused(make_services, start, name, field) -> None:
    admission = opened(make_services)
    with pytest.raises(InvalidField) as caught:
        await Calls(admission, Hub(10), LIMITS).answer("v=0", None, start, name)
    assert caught.value.field == field
    assert admission.inside == 0


async def test_a_bad_offer_leaves_nothing_behind(make_services) -> None:
    admission, hub = opened(make_services), Hub(10)
    with pytest.raises(InvalidField):
        await Calls(admission, hub, LIMITS).answer("v=0", None, Start(), "stage")
    assert admission.inside == 0
    found = hub.find("stage")
    assert found is not None
    assert found.is_over


async def test_a_full_or_stopping_server_refuses(make_services) -> None:
    admission = opened(make_services, 1)
    calls = Calls(admission, Hub(10), LIMITS)
    offer = await make_offer()
    await calls.answer(offer, None, Start())
    with pytest.raises(Overloaded):
        await calls.answer(offer, None, Start())
    admission.close()
    with pytest.raises(Draining):
        await calls.answer(offer, None, Start())
    await calls.close()
    assert admission.inside == 0
