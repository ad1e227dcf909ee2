"""The door lets in what fits, and says why not."""

from __future__ import annotations

import asyncio

import pytest

from stream_server.errors import DiffscribeError, Draining, LimitReached, Overloaded
from stream_server.keyring import Key
from stream_server.transports.admission import Admission
from stream_server.transports.quotas import Quotas


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


async def test_each_key_has_its_quota_and_can_be_sent_away(make_services) -> None:
    admission = Admission(9, Quotas(max_sessions=1))
    admission.open(make_services(), lambda: True)
    one, other = Sitter(), Sitter()
    with admission.admit(one, Key("one")), admission.admit(other, Key("other")):
        with pytest.raises(LimitReached, match="'one' may have 1 sessions"):
            admission.check(Key("one"))
        with pytest.raises(LimitReached), admission.admit(key=Key("one")):
            pass
        assert admission.inside == 2
        await admission.dismiss(Draining("go"), {"one"})
        assert (len(one.dismissed), len(other.dismissed)) == (1, 0)
    admission.check(Key("one"))


async def test_audio_is_metered_for_each_key(make_services) -> None:
    admission = Admission(9, Quotas(max_audio_s=1))
    admission.open(make_services(), lambda: True)
    admission.meter(Key("one"))(16_000)
    with pytest.raises(LimitReached, match="of audio a day"):
        admission.check(Key("one"))
    admission.check(Key("other"))


async def test_who_does_not_fit_is_told_so_and_every_change_is_noted(make_services) -> None:
    admission, seen = Admission(5), []

    def fits(inside: int) -> int:
        seen.append(inside)
        return 2

    admission.open(make_services(), lambda: True, fits)
    with admission.admit(), admission.admit():
        assert admission.status == "ready"
        with pytest.raises(Overloaded, match="busy with 2 sessions"), admission.admit():
            pass
    assert seen == [0, 1, 1, 2, 2, 1, 0]
    with admission.admit():
        pass


async def test_what_only_carries_sessions_takes_a_place_and_nothing_of_the_model(
    make_services,
) -> None:
    admission = Admission(3)
    admission.open(make_services(), lambda: True, lambda inside: 1)
    with admission.admit(is_heard=False), admission.admit(is_heard=False):
        with admission.admit():
            assert admission.inside == 3
            with pytest.raises(Overloaded, match="all 3 places"), admission.admit():
                pass
        with (
            admission.admit(),
            pytest.raises(Overloaded, match="places"),
            admission.admit(is_heard=False),
        ):
            pass
