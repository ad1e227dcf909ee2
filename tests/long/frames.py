"""Hostile frames and requests by the thousand: valid ones, spoiled in many ways, from a seed.

Each generator is a pure function of its ``random.Random``, so a failure is found again.
"""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Frame = str | bytes

SPEECH = (
    (np.sin(np.arange(8_000) / 18) * np.sin(np.arange(8_000) / 5) * 9000).astype("<i2").tobytes()
)
_HEADS = (
    b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data", b"OggS",
    b"\x1aE\xdf\xa3", b"fLaC", b"ID3\4", b"\xff\xfb\x90", b"OpusHead", b"",
)  # fmt: skip
_ODD: Sequence[Any] = (
    None, True, False, 0, -1, 1, 1.5, 1e308, -1e308, 2**31, 2**63, 10**40, "", "0", "x" * 300, "\0",
    "en", "../../x", "\ud800", "\U0001f600", [], {}, [[]], {"a": {}}, [None] * 50, "NaN", "true",
)  # fmt: skip
_JUNK = (
    "", " ", "{", "}", "[]", "null", "1e999", '"', "{}", '{"type":', "[" * 5_000, '{"a":' * 2_000,
    '{"type":"start"}{"type":"stop"}', '{"type":"\\ud800"}', "NaN", "\ufeff{}", "\0", "<xml/>",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Api:
    """One API over WebSocket, as a client that means no good knows it."""

    name: str
    path: str
    events: tuple[Mapping[str, Any], ...]
    """Valid events of a client."""
    last: str
    """What ends a conversation that is still good."""
    queries: tuple[str, ...] = ("",)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    opening: tuple[str, ...] = ()
    """What a conversation mostly begins with."""
    patience: float = 0.1
    """Seconds to wait for the end after ``last``; OpenAI's conversations end only by leaving."""


_TURNS = {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 300}
_RAW = "encoding=linear16&sample_rate=16000"
APIS = (
    Api(
        "native",
        "/v1/stream",
        (
            {"type": "start", "encoding": "pcm_s16le", "sample_rate": 16000, "channels": 1,
             "partial_interval_ms": 200, "steps": 4, "words": True, "language": "en",
             "endpointing": {"silence_ms": 300, "max_segment_ms": 5000},
             "resume": {"token": "t", "position": 0, "segment": 0}},
            {"type": "start", "encoding": "pcm_f32le"},
            {"type": "start", "encoding": "webm"},
            {"type": "start", "encoding": "mulaw", "sample_rate": 8000, "channels": 2},
            {"type": "flush", "id": "a"},
            {"type": "configure", "partial_interval_ms": 0, "endpointing": {"silence_ms": 200}},
            {"type": "stop"},
        ),
        '{"type":"stop"}',
        opening=('{"type":"start"}', '{"type":"start","encoding":"ogg"}'),
    ),
    Api(
        "openai",
        "/v1/realtime",
        (
            {"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": {"model": "m", "language": "en"}, "turn_detection": _TURNS}}}},
            {"type": "transcription_session.update", "session": {
                "input_audio_format": "g711_ulaw", "turn_detection": None}},
            {"type": "input_audio_buffer.append",
             "audio": base64.b64encode(SPEECH[:4000]).decode()},
            {"type": "input_audio_buffer.commit"},
            {"type": "input_audio_buffer.clear"},
            {"type": "response.create"},
        ),
        '{"type":"input_audio_buffer.clear"}',
        queries=("intent=transcription", "model=m&language=en", "intent=x"),
        headers=((b"openai-beta", b"realtime=v1"),),
        patience=0.01,
    ),
    Api(
        "deepgram",
        "/v1/listen",
        ({"type": "KeepAlive"}, {"type": "Finalize"},
         {"type": "Configure", "features": {"numerals": True}}, {"type": "CloseStream"}),
        '{"type":"CloseStream"}',
        queries=("", _RAW, _RAW + "&interim_results=true&endpointing=10", "encoding=opus",
                 "encoding=mulaw&sample_rate=8000&channels=2&multichannel=true", "channels=-1"),
    ),
    Api(
        "flux",
        "/v2/listen",
        ({"type": "Configure", "thresholds": {"eot_threshold": 0.7, "eot_timeout_ms": 5000}},
         {"type": "ForceEndTurn"}, {"type": "CloseStream"}),
        '{"type":"CloseStream"}',
        queries=("model=flux-general-en&" + _RAW, _RAW, "eot_threshold=9"),
    ),
    Api(
        "assemblyai",
        "/v3/ws",
        ({"type": "UpdateConfiguration", "end_of_turn_confidence_threshold": 0.5},
         {"type": "ForceEndpoint"}, {"type": "Terminate"}),
        '{"type":"Terminate"}',
        queries=("sample_rate=16000", "sample_rate=16000&format_turns=true", "sample_rate=x"),
    ),
    Api(
        "speechmatics",
        "/v2",
        ({"message": "StartRecognition", "audio_format": {"type": "raw", "encoding": "pcm_s16le",
          "sample_rate": 16000}, "transcription_config": {"language": "en", "max_delay": 2}},
         {"message": "SetRecognitionConfig", "transcription_config": {"language": "en"}},
         {"message": "EndOfStream", "last_seq_no": 1}),
        '{"message":"EndOfStream","last_seq_no":0}',
        opening=('{"message":"StartRecognition","audio_format":{"type":"raw","encoding":"pcm_s16le"'
                 ',"sample_rate":16000},"transcription_config":{"language":"en"}}',),
    ),
    Api(
        "vosk",
        "/vosk",
        ({"config": {"sample_rate": 16000.0, "words": 1, "max_alternatives": 0}}, {"eof": 1},
         {"reset": 1}),
        '{"eof" : 1}',
    ),
)  # fmt: skip


def frame(api: Api, chance: random.Random, spoilt: float) -> Frame:
    """Return one frame: audio or an event.

    Args:
        api: whose.
        chance: decides.
        spoilt: share of frames that are not as they should be.
    """
    if chance.random() >= spoilt:
        return audio(chance) if chance.random() < 0.8 else json.dumps(chance.choice(api.events))
    kind = chance.random()
    if kind < 0.15:
        return sound(chance)
    if kind < 0.85:
        return _spoilt(chance.choice(api.events), chance)
    if kind < 0.97:
        return chance.choice(_JUNK)
    return "".join(chr(chance.randrange(0x20, 0x2FFF)) for _ in range(chance.randrange(40)))


def audio(chance: random.Random) -> bytes:
    """Return whole samples of speech or silence."""
    if chance.random() < 0.7:
        first = 2 * chance.randrange(len(SPEECH) // 2)
        return SPEECH[first : first + 2 * chance.randrange(750)]
    return bytes(2 * chance.randrange(1_500))


def sound(chance: random.Random) -> bytes:
    """Return a binary frame that may be anything: noise, another container, half a sample."""
    kind = chance.random()
    if kind < 0.4:
        return chance.randbytes(chance.randrange(600))
    if kind < 0.9:
        return chance.choice(_HEADS) + chance.randbytes(chance.randrange(100))
    return struct.pack("<4f", float("nan"), float("inf"), 1e30, -2.0)


def _spoilt(event: Mapping[str, Any], chance: random.Random) -> str:
    """Return an event with a field replaced, left out or added, or its text cut or changed."""
    copy = json.loads(json.dumps(event))
    holder = copy
    while True:
        key = chance.choice(list(holder)) if holder else "x"
        if isinstance(holder.get(key), dict) and holder[key] and chance.random() < 0.7:
            holder = holder[key]
            continue
        break
    kind = chance.random()
    if kind < 0.5:
        holder[key] = chance.choice(_ODD)
    elif kind < 0.65:
        holder.pop(key, None)
    elif kind < 0.75:
        holder[chance.choice(("colour", "", "type", "\0", "a" * 100))] = chance.choice(_ODD)
    text = json.dumps(copy)
    if kind > 0.9:
        place = chance.randrange(len(text))
        text = (
            text[:place] + chance.choice(("", "}", '"', "\0", "\\u0000", "é")) + text[place + 1 :]
        )
    elif kind > 0.8:
        text = text[: chance.randrange(len(text))]
    return text


def query(api: Api, chance: random.Random) -> str:
    """Return the query of an address: right, odd, or both."""
    chosen = chance.choice(api.queries)
    if chance.random() < 0.15:
        odd = chance.choice(
            ("language=%00", "sample_rate=-1", "channels=999", "%ff=%fe", "a=b&a=c")
        )
        chosen = f"{chosen}&{odd}" if chosen else odd
    return chosen


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


PATHS = (
    "/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models", "/v1/models/x",
    "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/listen", "/v1/stream", "/whip",
    "/whip/x", "/v1/webrtc/offer", "/v1/webrtc/ice", "/v1/realtime/client_secrets",
    "/v1/realtime/transcription_sessions", "/v1/sessions/x/events", "/v1/sessions/x/captions.vtt",
    "/v1/sessions/x/captions.srt",
    "/overlay", "/web/index.html", "/web/../../etc/passwd", "/nowhere",
)  # fmt: skip
_METHODS = (
    "GET",
    "GET",
    "POST",
    "POST",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "HEAD",
    "BREW",
)
_TYPES = (
    b"application/json", b"application/sdp", b"audio/wav", b"text/plain",
    b"application/octet-stream", b"multipart/form-data; boundary=x", b"multipart/form-data",
    b"\xff", b"",
)  # fmt: skip
_BODIES: Sequence[Callable[[random.Random], bytes]] = (
    lambda chance: b"",
    lambda chance: chance.randbytes(chance.randrange(200)),
    lambda chance: _HEADS[0] + b"\xff\xff\xff\xff" + sound(chance),
    lambda chance: json.dumps(
        {"url": "file:///etc/passwd", "sdp": chance.choice(_ODD), "session": chance.choice(_ODD)}
    ).encode(),
    lambda chance: (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + sound(chance)
        + b"\r\n--x--\r\n"
    ),
    lambda chance: (
        b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
        + chance.choice((b"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", b"m=", b"a=\xff\r\n"))
    ),
)


def request(chance: random.Random) -> Request:
    """Return a request that may be anything."""
    headers = [(b"host", b"x"), (b"content-type", chance.choice(_TYPES))]
    if chance.random() < 0.2:
        names = (b"authorization", b"x-api-key", b"range", b"if-match", b"last-event-id", b"origin")
        headers.append((chance.choice(names), chance.randbytes(chance.randrange(30))))
    body = chance.choice(_BODIES)(chance)
    queries = (
        b"",
        b"language=xx",
        b"steps=-1",
        b"response_format=exe",
        b"%ff=%00&&=",
        b"stream=true",
    )
    path = chance.choice(PATHS)
    if chance.random() < 0.1:
        path += chance.choice(("/", "//", "%00", "/..", "/\u00e9", "?x"))
    return Request(chance.choice(_METHODS), path, chance.choice(queries), tuple(headers), body)


__all__ = [
    "APIS",
    "PATHS",
    "SPEECH",
    "Api",
    "Frame",
    "Request",
    "audio",
    "frame",
    "query",
    "request",
    "sound",
]
