"""Against a stand-in that checks the form as the services' pages have it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from stream_client import caption_push
from stream_client.caption_forms import YouTubeForm, ZoomForm
from stream_client.caption_push import CaptionPush
from stream_protocol.messages import Ack, Final, Partial, Timings

SECOND = 16_000


@pytest.fixture
def service(caption_service):
    return caption_service


def final(text, start, end):
    times = (start * SECOND, end * SECOND)
    return Final(0, 0, 2, text, *times, "en", 1.0, None, Timings(1, 1, 1, 1))


def play(form, messages, speakers=()):
    """Show messages to a push; returns how many were lost, and what was reported."""
    said: list[str] = []
    push = CaptionPush(form, speakers, said.append)
    for message in messages:
        push.show(message)
    push.close()
    return push.lost, said


LONG = "this is a sentence that takes two lines of the screen because it is long"
TALK = [
    Ack(1),
    Partial(0, 0, 1, "", "good", SECOND, 2 * SECOND),
    final(" good morning ", 1, 3),
    final("", 3, 4),
    final(LONG, 5, 9),
    final("bye", 10, 11),
]


def test_zoom_gets_each_final_once(service):
    assert play(ZoomForm(service.url()), TALK, ("Zoë",)) == (0, [])
    assert [number for number, _ in service.taken] == [1, 2, 3]
    assert service.taken[0][1] == "Zoë: good morning\n"
    lines = service.taken[1][1].splitlines()
    assert " ".join(lines) == f"Zoë: {LONG}"
    assert max(map(len, lines)) <= 42
    assert service.taken[2][1] == "Zoë: bye\n"


def test_zoom_counts_on_from_an_earlier_run(service):
    service.last = 41
    assert play(ZoomForm(service.url()), TALK[:3]) == (0, [])
    assert service.taken == [(42, "good morning\n")]


def test_youtube_gets_times_by_its_own_clock(service):
    service.ahead = timedelta(hours=1)
    before = datetime.now(UTC).replace(tzinfo=None)
    assert play(YouTubeForm(service.url("/youtube")), TALK) == (0, [])
    assert [number for number, _ in service.taken] == [1, 2, 3]
    lines = [body.splitlines() for _, body in service.taken]
    assert lines[1][1].replace("<br>", " ") == LONG
    moments = [datetime.fromisoformat(line[0]) for line in lines]
    # When the first final came, 3 s of audio were over, of which it began at the first.
    assert moments[0] - before == pytest.approx(timedelta(seconds=-2), abs=timedelta(seconds=1))
    # Then 9 s were, so the stream had begun earlier; and now the other clock is known.
    later = moments[1] - before
    assert later == pytest.approx(timedelta(hours=1, seconds=-4), abs=timedelta(seconds=1))


def test_what_fails_is_posted_again_with_its_number(service):
    service.refusals = [503, 403]
    assert play(ZoomForm(service.url()), TALK[:3]) == (0, [])
    assert service.taken == [(1, "good morning\n")]
    assert service.tries == 3


def test_what_is_late_is_given_up_and_the_next_goes_on(service, monkeypatch):
    monkeypatch.setattr(caption_push, "TRYING_SECONDS", 0.09)
    service.refusals = [403]
    service.last = 1  # it counts on from the number that it refused
    lost, said = play(YouTubeForm(service.url("/youtube")), TALK)
    assert lost == 1
    assert said == ["YouTube did not take a caption: HTTP status 403"]
    assert [number for number, _ in service.taken] == [2, 3]


def test_nobody_there(monkeypatch):
    monkeypatch.setattr(caption_push, "TRYING_SECONDS", 0.09)
    lost, said = play(ZoomForm("http://127.0.0.1:9/closedcaption?id=s3cret"), TALK[:3])
    assert lost == 1
    assert "refused" in said[0]
    assert "s3cret" not in said[0]


@pytest.mark.alone
def test_a_slow_service_holds_up_nobody(service, monkeypatch):
    monkeypatch.setattr(caption_push, "_CLOSE_SECONDS", 0.2)
    service.delay = 1.0
    push = CaptionPush(ZoomForm(service.url()), (), lambda _: None)
    began = time.monotonic()
    for number in range(200):
        push.show(final(f"line {number}", 2 * number, 2 * number + 1))
    assert time.monotonic() - began < 0.5
    push.close()
    assert time.monotonic() - began < 1.0
    assert push.lost >= 200 - 64
