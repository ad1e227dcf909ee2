"""Offers and fragments as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.errors import InvalidField
from stream_server.transports.sdp import (
    Fragment,
    MediaSection,
    TrickledCandidate,
    find_ufrag,
    read_fragment,
    read_offer,
)

HEAD = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=setup:actpass\r\n"
AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=sendonly\r\na=ice-ufrag:EsAw\r\n"
VIDEO = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\na=setup:active\r\n"


def test_the_sections_of_an_offer() -> None:
    assert read_offer(HEAD + VIDEO + AUDIO) == (
        MediaSection("video", "sendrecv", "active"),
        MediaSection("audio", "sendonly", "actpass"),
    )
    assert find_ufrag(HEAD + AUDIO) == "EsAw"
    assert find_ufrag(HEAD) is None


def test_a_direction_may_stand_for_all_sections() -> None:
    (section,) = read_offer(HEAD + "a=sendonly\r\n" + AUDIO.replace("a=sendonly\r\n", ""))
    assert section.direction == "sendonly"


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        ("", "not SDP"),
        ('{"sdp": ""}', "not SDP"),
        (HEAD, "0 audio"),
        (HEAD + VIDEO, "0 audio"),
        (HEAD + AUDIO + AUDIO, "2 audio"),
        (HEAD + AUDIO.replace("sendonly", "recvonly"), "recvonly"),
        (HEAD + AUDIO.replace("sendonly", "inactive"), "inactive"),
    ],
)
def test_what_cannot_be_served_is_refused(offer: str, said: str) -> None:
    with pytest.raises(InvalidField, match=said) as caught:
        read_offer(offer)
    assert caught.value.field == "sdp"


def test_a_fragment() -> None:
    text = (
        "a=group:BUNDLE 0\nm=audio 9 UDP/TLS/RTP/SAVPF 111\na=mid:0\na=ice-ufrag:EsAw\n"
        "a=ice-pwd:x\na=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\n"
        "a=end-of-candidates\n"
    )
    line = "1 1 udp 2122260223 192.0.2.1 61764 typ host"
    assert read_fragment(text) == Fragment("EsAw", (TrickledCandidate("0", line),), True)
    assert read_fragment("a=candidate:" + line).candidates == (TrickledCandidate(None, line),)


@pytest.mark.parametrize("text", ["", "hello", "a=mid:0", "a=mid:0\n{}"])
def test_what_is_no_fragment_is_refused(text: str) -> None:
    with pytest.raises(InvalidField):
        read_fragment(text)


@given(st.text(alphabet=st.sampled_from("avm=:\r\n cndiate-ufrg0audio"), max_size=200))
def test_no_text_breaks_the_readers(text: str) -> None:
    for read in (read_offer, read_fragment, lambda each: read_offer("v=0" + each)):
        try:
            read(text)
        except InvalidField:
            continue
