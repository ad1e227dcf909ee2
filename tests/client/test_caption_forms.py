from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest

from stream_client.caption_forms import YouTubeForm, ZoomForm
from stream_client.errors import OutputError

ZOOM = (
    "https://wmcc.zoom.us/closedcaption?id=1&ns=QWRh&expire=86400&sparams=id%2Cns&signature=a-B_c."
)
YOUTUBE = "http://upload.youtube.com/closedcaption?cid=abcd-1234"
MOMENT = 1356307206.873  # 2012-12-24T00:00:06.873 UTC, of YouTube's own example


def test_zoom():
    form = ZoomForm(ZOOM, "de-DE")
    assert form.address(7) == f"{ZOOM}&seq=7&lang=de-DE"
    assert form.body(("one", "two"), MOMENT) == "one\ntwo\n"
    form.read_answer("anything", MOMENT)
    asked = urlsplit(form.number_address)
    assert asked.path == "/closedcaption/seq"
    assert asked.query == urlsplit(ZOOM).query, "signed: to the letter"


def test_youtube():
    form = YouTubeForm(YOUTUBE)
    assert form.address(1) == f"{YOUTUBE}&seq=1"
    assert form.body(("one", "two"), MOMENT) == "2012-12-24T00:00:06.873\none<br>two\n"
    assert form.number_address == ""


@pytest.mark.parametrize("answer", ["2012-12-24T00:00:08.373", "2012-12-24T00:00:08.373\n"])
def test_youtube_by_its_own_clock(answer):
    form = YouTubeForm(YOUTUBE)
    form.read_answer(answer, MOMENT)  # which is 1.5 s ahead of ours
    assert form.body(("one",), MOMENT + 2) == "2012-12-24T00:00:10.373\none\n"
    form.read_answer("<html>sorry</html>", MOMENT + 60)
    assert form.body(("one",), MOMENT + 2) == "2012-12-24T00:00:10.373\none\n"


def test_an_address_without_a_query_gets_one():
    assert parse_qsl(urlsplit(YouTubeForm("https://host/cc").address(3)).query) == [("seq", "3")]


@pytest.mark.parametrize("form", [ZoomForm, YouTubeForm])
@pytest.mark.parametrize("url", ["", "wmcc.zoom.us/closedcaption?id=s3cret", "file:///etc/s3cret"])
def test_what_is_no_address_is_refused_and_not_repeated(form, url):
    with pytest.raises(OutputError, match="should begin with https://") as caught:
        form(url)
    assert "s3cret" not in str(caught.value)
