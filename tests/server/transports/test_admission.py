"""The door lets in what fits, and says why not."""

from __future__ import annotations

import asyncio

import pytest

from stream_server.errors import DiffscribeError, Draining, Overloaded
from stream_server.transports.admission import Admission


class Sitter:
    def __init__(self) -> None:
        self.dismissed: list[DiffscribeError] = []

    async def dismiss(self, error: DiffscribeError) -> None:
        self.dismissed.append(error)


async def test_nobody_comes_in_while_the_model_loads(make_services) -> None:
    admission = Admission(1)
    assert (admission.status, admission.model) == ("loading", None)
    with pytest.raises(Overloaded, match="loading"), admission.admit():
        pass
    admission.open(make_services(), lambda: True)
    assert (admission.status, admission.model) == ("ready", "fake")
    with admission.admit() as services:
        assert services.info.name == "fake"


async def test_places_are_counted_and_given_back(make_services) -> None:
    admission = Admission(2)
    admission.open(make_services(), lambda: True)
    with admission.admit(), admission.admit(Sitter()):
        assert (admission.inside, admission.sessions) == (2, 1)
        with pytest.raises(Overloaded, match="all 2 places"), admission.admit():
            pass
    assert (admission.inside, admission.sessions) == (0, 0)
    with pytest.raises(ValueError, match="within"), admission.admit():
        raise ValueError("within")
    assert admission.inside == 0


async def test_a_drain_waits_for_those_inside(make_services) -> None:
    admission = Admission(2)
    admission.open(make_services(), lambda: True)
    guest = Sitter()
    with admission.admit(guest):
        admission.close()
        assert admission.status == "draining"
        with pytest.raises(Draining), admission.admit():
            pass
        waiting = asyncio.create_task(admission.wait_until_empty())
        await asyncio.sleep(0)
        assert not waiting.done()
        await admission.dismiss(Draining("now"))
        assert [str(error) for error in guest.dismissed] == ["now"]
    await asyncio.wait_for(waiting, 1)
    await admission.dismiss(Draining("again"))
    assert len(guest.dismissed) == 1


async def test_a_server_that_was_told_to_stop_does_not_open(make_services) -> None:
    admission = Admission(1)
    admission.close()
    admission.open(make_services(), lambda: True)
    assert admission.status == "draining"


async def test_a_broken_engine_takes_nobody(make_services) -> None:
    admission = Admission(1)
    admission.open(make_services(), lambda: False)
    assert admission.status == "broken"
    with pytest.raises(Overloaded, match="stopped"), admission.admit():
        pass
