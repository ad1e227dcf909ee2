"""Hostile input, each with its specified answer, and a good session unharmed after each.

Three tables: what is said in a session, what is done to the socket, what is sent over HTTP. The
server and the good session are the same throughout, so damage that one case leaves behind fails
the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av
import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

START = {"type": "start"}
STOP = {"type": "stop"}
FLUSH = {"type": "flush"}
F32 = {"type": "start", "encoding": "pcm_f32le"}
MULAW = {"type": "start", "encoding": "mulaw"}
WEBM = {"type": "start", "encoding": "webm"}
OGG = {"type": "start", "encoding": "ogg"}


def floats(value: float) -> bytes:
    return np.full(1000, value, np.float32).tobytes()


def noise(size: int) -> bytes:
    return np.random.default_rng(7).bytes(size)


def recording(kind: str) -> bytes:
    samples = (np.sin(np.arange(48000) / 20) * 9000).astype(np.int16)[np.newaxis]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()


WAV = b"RIFF\x24\0\1\0WAVEfmt \x10\0\0\0\1\0\2\0\x44\xac\0\0\x10\xb1\2\0\4\0\x10\0data\0\0\1\0"


@pytest.fixture(scope="module")
def server(running):
    """One server with the limits that the tables count on."""
    with running() as server:
        yield server


@pytest.fixture
async def bystander(server, talk, voice):
    """A session that is open throughout the case, and must get its transcript after it."""
    async with talk(server, {}) as conversation:
        await conversation.say(voice()[:20_000])
        yield
        await conversation.say(voice()[20_000:], STOP)
        heard, code = await conversation.hear_all()
    assert code == 1000
    assert [bool(m["text"]) for m in heard if m["type"] == "final"] == [True]
    # And a new one is let in.
    async with talk(server, {}) as conversation:
        await conversation.say(FLUSH)
        await conversation.hear("flushed")


# --- in a session -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Says:
    """What a client says, and how the session ends."""

    name: str
    frames: Sequence[object]
    code: str | None
    """Of the error message; none where the session must end well."""
    close: int
    field: str | None = None


def start_with(**fields: Any) -> list[object]:
    return [{"type": "start", **fields}]


IN_SESSION = [
    # not a message
    Says("not JSON", ["hello"], "bad_message", 1007),
    Says("empty text", [""], "bad_message", 1007),
    Says("half a JSON object", ['{"type": "start"'], "bad_message", 1007),
    Says("two JSON objects", ['{"type":"start"}{"type":"stop"}'], "bad_message", 1007),
    Says("an array", ["[]"], "bad_message", 1007),
    Says("a number", ["1e999"], "bad_message", 1007),
    Says("NaN in JSON", ['{"type":"start","channels":NaN}'], "bad_message", 1007),
    Says("deep nesting", ["[" * 30_000], "bad_message", 1007),
    Says(
        "deep nesting in a field",
        ['{"type":"start","resume":' + "[" * 30_000],
        "invalid_field",
        1008,
    ),
    Says("a lone surrogate", ['{"type":"flush","id":"\\ud800"}'], "bad_message", 1007),
    Says("an unknown type", [{"type": "launch"}], "bad_message", 1007, "$.type"),
    Says("no type", [{"encoding": "mulaw"}], "bad_message", 1007, "$.type"),
    Says("a server's message", [{"type": "done", "samples": 1}], "bad_message", 1007, "$.type"),
    Says("a long text", [json.dumps({"type": "flush", "id": "x" * 70_000})], "too_large", 1009),
    # fields
    Says("an unknown field", start_with(colour="red"), "invalid_field", 1008, "$.colour"),
    Says("text for a number", start_with(channels="1"), "invalid_field", 1008, "$.channels"),
    Says("a float for an integer", start_with(steps=1.5), "invalid_field", 1008, "$.steps"),
    Says("null for a number", start_with(channels=None), "invalid_field", 1008, "$.channels"),
    Says(
        "a list for an object", start_with(endpointing=[]), "invalid_field", 1008, "$.endpointing"
    ),
    Says("an odd encoding", start_with(encoding="mp3"), "invalid_field", 1008, "$.encoding"),
    Says("an odd rate", start_with(sample_rate=11025), "invalid_field", 1008, "$.sample_rate"),
    Says("no channels", start_with(channels=0), "invalid_field", 1008, "$.channels"),
    Says("absurd channels", start_with(channels=2**31), "invalid_field", 1008, "$.channels"),
    Says("no steps", start_with(steps=0), "invalid_field", 1008, "$.steps"),
    Says("endless steps", start_with(steps=10**6), "invalid_field", 1008, "$.steps"),
    Says("a huge integer", start_with(steps=10**40), "invalid_field", 1008, "$.steps"),
    Says(
        "a frantic interval",
        start_with(partial_interval_ms=1),
        "invalid_field",
        1008,
        "$.partial_interval_ms",
    ),
    Says(
        "an endless segment",
        start_with(endpointing={"max_segment_ms": 10**9}),
        "invalid_field",
        1008,
        "$.endpointing.max_segment_ms",
    ),
    Says("an odd language", start_with(language="../x"), "invalid_field", 1008, "$.language"),
    Says(
        "a negative resume",
        start_with(resume={"token": "t", "position": -1}),
        "invalid_field",
        1008,
        "$.resume.position",
    ),
    Says(
        "configure with nonsense",
        [START, {"type": "configure", "endpointing": {"silence_ms": -5}}],
        "invalid_field",
        1008,
        "$.endpointing.silence_ms",
    ),
    # order
    Says("audio before start", [bytes(640)], "wrong_state", 1002),
    Says("flush before start", [FLUSH], "wrong_state", 1002),
    Says("configure before start", [{"type": "configure"}], "wrong_state", 1002),
    Says("stop before start", [STOP], "wrong_state", 1002),
    Says("start twice", [START, START], "wrong_state", 1002),
    Says("flush twice", [START, FLUSH, FLUSH, STOP], None, 1000),
    Says("stop at once", [START, STOP], None, 1000),
    # audio
    Says("NaN samples", [F32, floats(np.nan)], "bad_audio", 1007, "$.encoding"),
    Says("infinite samples", [F32, floats(-np.inf)], "bad_audio", 1007, "$.encoding"),
    Says("integers as floats", [F32, floats(20_000)], "bad_audio", 1007, "$.encoding"),
    Says("an odd byte count", [START, bytes(6401), STOP], "bad_audio", 1007, "$.encoding"),
    Says("odd pieces of whole samples", [START, bytes(321), bytes(321), STOP], None, 1000),
    Says("a WAV header of another rate", [START, WAV], "bad_audio", 1007, "$.sample_rate"),
    Says("FLAC as PCM", [START, b"fLaC\0\0\0\x22" + noise(500)], "bad_audio", 1007, "$.encoding"),
    Says("MP3 as PCM", [START, b"ID3\4\0\0" + noise(500)], "bad_audio", 1007, "$.encoding"),
    Says("WebM as PCM", [START, recording("webm")], "bad_audio", 1007, "$.encoding"),
    Says("Ogg as mu-law", [MULAW, recording("ogg")], "bad_audio", 1007, "$.encoding"),
    Says("WebM as Ogg", [OGG, recording("webm")], "bad_audio", 1007, "$.encoding"),
    Says("truncated WebM", [WEBM, recording("webm")[:-2000], STOP], None, 1000),
    Says("truncated Ogg", [OGG, recording("ogg")[:-2000], STOP], None, 1000),
    Says("WebM cut in its header", [WEBM, recording("webm")[:50], STOP], "bad_audio", 1007),
    Says("PCM as WebM", [WEBM, bytes(5000)], "bad_audio", 1007, "$.encoding"),
    Says("random bytes as WebM", [WEBM, noise(5000)], "bad_audio", 1007, "$.encoding"),
    Says("random bytes as Ogg", [OGG, noise(5000)], "bad_audio", 1007, "$.encoding"),
    Says(
        "garbage in the middle of WebM", [WEBM, recording("webm"), noise(5000)], "bad_audio", 1007
    ),
    Says("white noise", [START, noise(64_000), STOP], None, 1000),
    Says("empty frames by the thousand", [START, *[b""] * 5000, STOP], None, 1000),
    Says("single bytes by the thousand", [START, *[b"\0"] * 2000, STOP], None, 1000),
    Says("a minute of silence at once", [MULAW, *[b"\xff" * 240_000] * 2, STOP], None, 1000),
    Says("a frame a little too large", [START, bytes(300_000)], "too_large", 1009),
]


@pytest.mark.parametrize("case", IN_SESSION, ids=lambda case: case.name)
async def test_in_a_session(server, talk, bystander, case: Says) -> None:
    async with talk(server) as conversation:
        await conversation.say(*case.frames)
        heard, close = await conversation.hear_all()
    assert close == case.close
    errors = [message for message in heard if message["type"] == "error"]
    if case.code is None:
        assert errors == []
        assert heard[-1]["type"] == "done"
        if "truncated" not in case.name:  # those hold a tone
            assert not [m for m in heard if m["type"] == "final" and m["text"]]
        return
    assert [(e["code"], e["fatal"]) for e in errors] == [(case.code, True)]
    assert heard[-1] is errors[0]
    if case.field is not None:
        assert errors[0]["field"] == case.field
    assert errors[0]["message"]


async def test_flushing_twice_is_answered_twice(server, talk, bystander, voice) -> None:
    async with talk(server, {}) as conversation:
        await conversation.say(voice(), {**FLUSH, "id": "a"}, {**FLUSH, "id": "b"}, STOP)
        heard, _ = await conversation.hear_all()
    assert [m["id"] for m in heard if m["type"] == "flushed"] == ["a", "b"]
    assert len([m for m in heard if m["type"] == "final"]) == 1


@pytest.mark.parametrize("late", [bytes(640), FLUSH, STOP, START], ids=["audio", *"fsS"])
async def test_after_stop_nothing_more_may_be_said(server, talk, bystander, voice, late) -> None:
    async with talk(server, {}) as conversation:
        await conversation.say(voice()[:-14_000], STOP, late)
        heard, close = await conversation.hear_all()
    assert (heard[-1]["type"], heard[-1]["code"], close) == ("error", "wrong_state", 1002)


TOO_LARGE = (1009, 1006)
"""Where megabytes are still on their way, the reset may overtake the close frame (RFC 6455, 7.1.1);
the socket is closed either way, and nothing of the message was kept."""

# --- to the socket ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2_000_000, 20_000_000])
async def test_a_frame_far_too_large_is_not_read(server, talk, bystander, size) -> None:
    async with talk(server, {}) as conversation:
        await conversation.say(bytes(size))
        heard, close = await conversation.hear_all()
    assert close in TOO_LARGE
    assert [m["type"] for m in heard] == ["ready"]


async def test_an_endless_fragmented_message_is_not_kept(server, talk, bystander) -> None:
    async def fragments():
        for _ in range(10_000):
            yield bytes(1000)

    async with talk(server, {}) as conversation:
        await conversation.say(fragments())
        _, close = await conversation.hear_all()
    assert close in TOO_LARGE


async def test_text_that_is_not_utf8_is_closed_by_the_protocol(server, talk, bystander) -> None:
    async with talk(server, {}) as conversation:
        with contextlib.suppress(Exception):
            await conversation.socket.send(b'{"type":"flush","id":"\xff\xfe"}', text=True)
        heard, close = await conversation.hear_all()
    assert close == 1007
    assert [m["type"] for m in heard] == ["ready"]


def frame(
    first: int, payload: bytes, *, is_masked: bool = True, claims: int | None = None
) -> bytes:
    length = len(payload) if claims is None else claims
    head = bytes([first, (0x80 if is_masked else 0) | (length if length < 126 else 126)])
    if length >= 126:
        head += struct.pack("!H", length)
    return head + (bytes(4) if is_masked else b"") + payload


async def upgrade(server, key: bytes = b"dGhlIHNhbXBsZSBub25jZQ==", version: bytes = b"13"):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: " + key + b"\r\nSec-WebSocket-Version: " + version + b"\r\n\r\n"
    )
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    return reader, writer, int(head.split()[1])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("unmasked", frame(0x81, b'{"type":"start"}', is_masked=False)),
        ("reserved opcode", frame(0x83, b"x")),
        ("reserved bit", frame(0xC1, b"x")),
        ("long ping", frame(0x89, bytes(200))),
        ("fragmented ping", frame(0x09, b"x")),
        ("continuation of nothing", frame(0x80, b"x")),
        ("close with half a code", frame(0x88, b"\x03")),
        ("close with a forbidden code", frame(0x88, struct.pack("!H", 1005))),
    ],
)
async def test_broken_frames_are_closed_by_the_protocol(server, bystander, name, data) -> None:
    reader, writer, status = await upgrade(server)
    assert status == 101
    writer.write(data)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    assert answer[0] == 0x88
    assert struct.unpack("!H", answer[2:4]) == (1002,)


@pytest.mark.parametrize("is_rude", [False, True])
async def test_vanishing_in_the_middle_of_a_frame(server, bystander, is_rude) -> None:
    _, writer, _ = await upgrade(server)
    writer.write(frame(0x81, b'{"type":"start"}') + frame(0x82, bytes(100), claims=60_000))
    await writer.drain()
    if is_rude:
        writer.transport.abort()
    else:
        writer.close()
    await sessions_are(server, 1)


@pytest.mark.parametrize(
    "data",
    [b"", b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: webs", b"\x16\x03\x01\x02\0\x01\0\x01"],
    ids=["silent", "half a handshake", "TLS"],
)
async def test_half_open_connections_hold_no_place(server, bystander, data) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    await writer.drain()
    await sessions_are(server, 1)
    writer.close()


async def test_an_upgrade_without_a_key_is_refused(server, bystander) -> None:
    _, writer, status = await upgrade(server, key=b"short")
    assert status == 400
    writer.close()


async def test_an_upgrade_of_another_version_is_refused(server, bystander) -> None:
    _, writer, status = await upgrade(server, version=b"8")
    assert status in (400, 426)
    writer.close()


async def test_a_foreign_subprotocol_is_refused(server, talk, bystander) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with talk(server, subprotocols=["graphql-ws"]):
            pass
    assert caught.value.response.status_code == 400
    assert b"diffscribe.v1" in caught.value.response.body


async def sessions_are(server, expected: int) -> None:
    async with asyncio.timeout(5), httpx.AsyncClient(verify=False, base_url=server.url) as client:
        while (await client.get("/readyz")).json()["sessions"] != expected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# --- over HTTP ----------------------------------------------------------------------------------

UPLOAD = "/v1/audio/transcriptions"


@dataclass(frozen=True)
class Asks:
    """An HTTP request, and its answer."""

    name: str
    status: int
    code: str | None
    path: str = UPLOAD
    method: str = "POST"
    content: bytes | None = None
    file: bytes | None = None
    file_name: str = "a.wav"
    data: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    param: str | None = None


FORM = (("Content-Type", "multipart/form-data; boundary=x"),)
CONCAT = b"ffconcat version 1.0\nfile /etc/hostname\n"

OVER_HTTP = [
    Asks("GET of the upload", 405, "method_not_allowed", method="GET"),
    Asks("PUT of the upload", 405, "method_not_allowed", method="PUT"),
    Asks("POST to the stream", 405, "method_not_allowed", "/v1/stream"),
    Asks("GET of the stream", 426, "upgrade_required", "/v1/stream", "GET"),
    Asks("DELETE of the probe", 405, "method_not_allowed", "/healthz", "DELETE"),
    Asks("an odd method", 405, "method_not_allowed", "/healthz", "BREW"),
    Asks("no such path", 404, "not_found", "/admin", "GET"),
    Asks("path traversal", 404, "not_found", "/%2e%2e/%2e%2e/etc/passwd", "GET"),
    Asks("path traversal below a route", 404, "not_found", "/metrics/..%2fetc%2fpasswd", "GET"),
    Asks("a null in the path", 404, "not_found", "/healthz%00", "GET"),
    Asks("no body", 400, "invalid_field", content=b"", param="file"),
    Asks("no file", 400, "invalid_field", data=(("model", "x"),), content=b"", param="file"),
    Asks("a form without a file", 400, "invalid_field", content=b"--x--\r\n", headers=FORM),
    Asks("a broken form", 400, "bad_message", content=b"garbage", headers=FORM),
    Asks(
        "a form without a boundary",
        400,
        "bad_message",
        content=b"x",
        headers=(("Content-Type", "multipart/form-data"),),
    ),
    Asks("an empty file", 400, "invalid_field", file=b"", param="file"),
    Asks("text for audio", 400, "bad_audio", file=b"to be or not to be\n" * 50, param="file"),
    Asks("random bytes", 400, "bad_audio", content=noise(50_000), param="file"),
    Asks("JSON for audio", 400, "bad_audio", content=b'{"file": "a.wav"}', param="file"),
    Asks("a list of other files", 400, "bad_audio", file=CONCAT, param="file"),
    Asks("a playlist", 400, "bad_audio", content=b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"),
    Asks("a WAV header alone", 400, "bad_audio", file=WAV, param="file"),
    Asks("truncated WebM", 200, None, file=recording("webm")[:-2000]),
    Asks("truncated WebM as the body", 200, None, content=recording("webm")[:-2000]),
    Asks("a wicked file name", 200, None, file=recording("ogg"), file_name="../../etc/x\0.wav"),
    Asks("too large a file", 413, "too_large", content=bytes(2_000_001), param="file"),
    Asks("too large a file in a form", 413, "too_large", file=bytes(2_000_001), param="file"),
    Asks(
        "an odd format",
        400,
        "invalid_field",
        file=b"x",
        data=(("response_format", "exe"),),
        param="response_format",
    ),
    Asks(
        "an odd language",
        400,
        "invalid_field",
        file=recording("ogg"),
        data=(("language", "../../x"),),
        param="language",
    ),
    Asks(
        "absurd steps",
        400,
        "invalid_field",
        UPLOAD + "?steps=9999999999",
        content=recording("ogg"),
        param="steps",
    ),
    Asks(
        "a long field",
        400,
        "bad_message",
        file=b"x",
        data=(("prompt", "x" * 100_000),),
    ),
    Asks(
        "too many fields",
        400,
        "bad_message",
        file=b"x",
        data=tuple((f"f{n}", "x") for n in range(100)),
    ),
]


@pytest.mark.parametrize("case", OVER_HTTP, ids=lambda case: case.name)
async def test_over_http(server, bystander, case: Asks) -> None:
    async with httpx.AsyncClient(verify=False, base_url=server.url, timeout=10) as client:
        answer = await client.request(
            case.method,
            case.path,
            content=case.content,
            files={"file": (case.file_name, case.file)} if case.file is not None else None,
            data=dict(case.data) if case.content is None and case.data else None,
            headers=dict(case.headers),
        )
    assert answer.status_code == case.status
    if case.code is None:
        assert list(answer.json()) == ["text"]
        return
    error = answer.json()["error"]
    assert error["code"] == case.code
    assert error["message"]
    if case.param is not None:
        assert error["param"] == case.param


async def test_a_file_announced_too_large_is_not_read(server, bystander) -> None:
    answer = await raw(
        server,
        f"POST {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode(),
    )
    assert answer.startswith(b"HTTP/1.1 413")


async def test_an_endless_chunked_file_is_cut(server, bystander) -> None:
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    answer = await raw(
        server,
        f"POST {UPLOAD} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + chunk * 40,
    )
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("not HTTP", b"\0\1\2\3\r\n\r\n"),
        ("a header flood", b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n"),
        ("a long line", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("a bad length", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
        (
            "two lengths",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        ),
    ],
)
async def test_broken_http_is_refused(server, bystander, name, data) -> None:
    assert (await raw(server, data)).startswith(b"HTTP/1.1 400")


async def test_leaving_during_an_upload_frees_the_place(server, bystander) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + bytes(1000))
    await writer.drain()
    await sessions_are(server, 2)
    writer.transport.abort()
    await sessions_are(server, 1)


async def raw(server, data: bytes) -> bytes:
    """Send bytes and return what comes back up to the close, however rudely it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answer = b""
    async with asyncio.timeout(10):
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            while not answer.endswith(b"}") and (more := await reader.read(65_536)):
                answer += more
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


def test_there_are_fifty_cases_at_least() -> None:
    names = [case.name for case in (*IN_SESSION, *OVER_HTTP)]
    assert len(set(names)) >= 50
    assert len(IN_SESSION) == len({case.name for case in IN_SESSION})
    assert not os.path.exists("/etc/x")
