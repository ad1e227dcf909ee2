"""Hostile offers, fragments and addresses: each gets its refusal, and the server goes on."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterator

import httpx
import pytest
from aiortc import RTCPeerConnection
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.hostile.fuzz import CASES, FEW

SDP = {"Content-Type": "application/sdp"}


@functools.cache
def offer() -> str:
    """A right offer, of aiortc."""

    async def make() -> str:
        client = RTCPeerConnection()
        client.addTransceiver("audio", direction="sendonly")
        client.createDataChannel("transcripts")
        await client.setLocalDescription(await client.createOffer())
        text = str(client.localDescription.sdp)
        await client.close()
        return text

    return asyncio.run(make())


@st.composite
def broken_offers(draw: st.DrawFn) -> str:
    """A right offer with lines gone, doubled, moved or with other bytes in them."""
    lines = offer().splitlines()
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                lines[at : at + draw(st.integers(1, 4))] = []
            case 1:
                lines.insert(draw(st.integers(0, len(lines))), lines[at])
            case 2:
                line, cut = lines[at], draw(st.integers(0, len(lines[at])))
                lines[at] = line[:cut] + draw(st.text(max_size=8)) + line[cut + 1 :]
            case 3:
                words = lines[at].split(" ")
                words[draw(st.integers(0, len(words) - 1))] = draw(
                    st.sampled_from(["", "0", "-1", "99999999999999", "audio", "::1", "\0"])
                )
                lines[at] = " ".join(words)
        lines = lines or ["v=0"]
    return "\r\n".join(lines) + "\r\n"


@FEW
@given(broken_offers())
def test_broken_offers(http: httpx.Client, bystander: str, text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    answer = http.post("/whip", content=body, headers=SDP)
    assert answer.status_code in (201, 400, 503)
    if answer.status_code == 201:  # it was good enough
        assert http.delete(answer.headers["Location"]).status_code == 200


@CASES
@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda t: ("v=0\r\nm=" + t).encode()))
def test_bodies_that_are_no_offer(http: httpx.Client, bystander: str, body: bytes) -> None:
    assert http.post("/whip", content=body, headers=SDP).status_code == 400


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@CASES
@given(
    st.dictionaries(st.sampled_from(["sdp", "type", "start", "name", "x"]), ANYTHING) | ANYTHING,
)
def test_json_that_is_no_offer(http: httpx.Client, bystander: str, value: object) -> None:
    answer = http.post(
        "/v1/webrtc/offer", content=json.dumps(value), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_field"


@CASES
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), max_size=40),
    st.binary(max_size=200),
)
def test_sessions_that_are_not_there(
    http: httpx.Client, bystander: str, name: str, body: bytes
) -> None:
    # Not alone: "." and ".." would name another path.
    name = "x" + httpx.URL("http://x", params={"n": name}).query.decode().removeprefix("n=")
    for path in ("events", "captions.vtt", "captions.srt"):
        answer = http.get(f"/v1/sessions/{name}/{path}", headers={"Last-Event-ID": "x:1"})
        assert answer.status_code == 404
    kind = {"Content-Type": "application/trickle-ice-sdpfrag"}
    assert http.patch(f"/whip/sessions/{name}", content=body, headers=kind).status_code == 404
    assert http.delete(f"/whip/sessions/{name}").status_code == 404


@CASES
@given(st.text(st.sampled_from("a=candidte:-midufrg 0123456789.udp\r\n"), max_size=120))
def test_fragments(http: httpx.Client, bystander: str, session: str, text: str) -> None:
    kind = {"Content-Type": "application/trickle-ice-sdpfrag"}
    assert http.patch(session, content=text, headers=kind).status_code in (204, 400, 422)


@pytest.fixture(scope="module")
def session(http: httpx.Client) -> Iterator[str]:
    """Where a call that never connects is found."""
    answer = http.post("/whip", content=offer(), headers=SDP)
    assert answer.status_code == 201
    yield answer.headers["Location"]
    http.delete(answer.headers["Location"])
