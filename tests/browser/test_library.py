"""The browser's client library under node: golden conversations, tables, a real server."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import types
import zlib
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from stream_client.resume import SendLog
from stream_protocol import codec
from stream_protocol.connection import TRANSITIONS
from stream_protocol.messages import ClientMessage, Configure, Flush, ServerMessage, Start
from stream_server.transports.page import folder

HERE = Path(__file__).parent
VECTORS = sorted((HERE.parents[1] / "protocol/vectors").glob("*.jsonl"))
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    NODE is None, reason="no node here; on Debian: apt-get install nodejs"
)


def node(script: str, *arguments: object) -> str:
    command = [str(NODE), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_golden_conversations() -> None:
    frames = sum(len(path.read_text().splitlines()) - 1 for path in VECTORS)
    assert len(VECTORS) > 20
    assert int(node("replay.mjs", folder() / "protocol.js", *VECTORS)) == frames


def test_captions() -> None:
    assert node("captions.mjs", folder() / "captions.js") == "ok\n"


CYCLE = bytes(range(251))
WIDTHS = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1}


def story(seed: int) -> dict[str, Any]:
    """What may happen to a log of what is sent: calls, in any order that a stream may make them."""
    rng = random.Random(seed)
    encoding = rng.choice([*WIDTHS, "ogg"])
    rate = rng.choice([8000, 16000, 24000, 44100, 48000])
    split = rng.random() < 0.4
    start: dict[str, Any] = {"type": "start", "encoding": encoding, "sample_rate": rate}
    start |= {"channels": 2, "channel_mode": "split"} if split else {"channels": 1}
    if rng.random() < 0.3:
        start["resume"] = {"token": "o", "position": 640, "segment": 3}
    second = rate * WIDTHS.get(encoding, 1) * start["channels"]
    calls: list[Any] = []
    heard, number = 0, 3
    for _ in range(200):
        kind = rng.choices(("append", "take", "control", "hear", "rewind"), (9, 12, 1, 6, 0.6))[0]
        if kind == "append":
            calls.append([kind, rng.randrange(2 * second)])
        elif kind == "take":
            calls.append([kind, rng.randrange(1, 3 * second)])
        elif kind == "control":
            calls.append([kind, rng.choice(CONTROLS)])
        elif kind == "hear":
            heard += rng.randrange(2 * 16000) // 320 * 320
            channel = rng.randrange(2) if split else 0
            messages: list[dict[str, Any]] = [{"type": "ack", "samples": heard}]
            if rng.random() < 0.5:
                at = heard - rng.choice([0, 640, 3200, 16000])
                messages.append({"type": "speech_ended", "at": at, "segment": number})
                if rng.random() < 0.5:
                    messages.append({"type": "speech_started", "at": at, "segment": number + 1})
                if rng.random() < 0.8:
                    messages.append({"type": "final", "end": at, "segment": number, **FINAL})
                number += 1
            if rng.random() < 0.1:
                messages.append({"type": "flushed", "position": heard, "id": None})
            for each in messages:
                own = {"channel": channel} if each["type"] in OF_A_CHANNEL else {}
                calls.append(["hear", each | own])
        else:
            calls.append([kind])
    return {"start": start, "seconds": rng.choice([0, 20, 120]), "calls": calls}


CONTROLS: list[dict[str, Any]] = [
    {"type": "flush", "id": "f"},
    {"type": "configure", "endpointing": None, "language": "de", "partial_interval_ms": None},
    {"type": "configure", "endpointing": None, "language": None, "partial_interval_ms": 300},
]
FINAL = {
    "revision": 1, "text": "x", "start": 0, "language": None, "confidence": 1, "words": None,
    "timings": {"audio_ms": 1, "queue_ms": 1, "decode_ms": 1, "steps": 1},
}  # fmt: skip
OF_A_CHANNEL = ("speech_ended", "speech_started", "final")


def told_in_python(told: dict[str, Any]) -> list[Any]:
    """What our own log answers."""
    start = codec.decode_client(json.dumps(told["start"]))
    assert isinstance(start, Start)
    log = SendLog(start, capacity_seconds=told["seconds"])
    answers: list[Any] = []
    appended = 0
    for kind, *values in told["calls"]:
        answer: Any = None
        if kind == "append":
            first = appended % len(CYCLE)
            log.append_audio((CYCLE * (values[0] // len(CYCLE) + 2))[first : first + values[0]])
            appended += values[0]
        elif kind == "control":
            message = codec.decode_client(json.dumps(values[0]))
            assert isinstance(message, Flush | Configure)
            log.append_control(message)
        elif kind == "hear":
            log.receive(codec.decode_server(json.dumps(values[0])))
        elif kind == "take":
            item = log.take(values[0])
            if isinstance(item, bytes):
                answer = [len(item), zlib.adler32(item)]
            elif item is not None:
                answer = json.loads(codec.encode(item))
        elif log.can_resume:
            answer = json.loads(codec.encode(log.rewind("t")))
        answers.append([answer, log.kept_bytes, log.unsent_bytes, log.is_full])
    return answers


@pytest.mark.parametrize("seed", range(12))
def test_what_is_sent_again_is_what_the_python_client_sends(tmp_path: Path, seed: int) -> None:
    told = story(seed)
    file = tmp_path / "story.json"
    file.write_text(json.dumps(told))
    answers = json.loads(node("resume.mjs", folder(), file))
    for call, answer, wanted in zip(told["calls"], answers, told_in_python(told), strict=True):
        assert answer == wanted, call


def shape_of(hint: Any) -> Any:
    """A Python type as the library's tables write it."""
    if hint in (int, float, str, bool):
        return {int: "integer", float: "number", str: "string", bool: "boolean"}[hint]
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) is list:
        return {"kind": "list", "of": shape_of(get_args(hint)[0])}
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = [each for each in get_args(hint) if each is not type(None)]
        return {"kind": "nullable", "of": shape_of(inner)}
    return struct_shape(hint)


def struct_shape(struct: type[msgspec.Struct]) -> dict[str, Any]:
    hints = get_type_hints(struct)
    shape = {}
    for field in msgspec.structs.fields(struct):
        shape[field.name] = shape_of(hints[field.name])
        if not field.required:
            fallback = json.loads(msgspec.json.encode(field.default))
            shape[field.name] = {"kind": "optional", "of": shape[field.name], "fallback": fallback}
    return shape


def test_the_tables_are_those_of_the_protocol() -> None:
    tables = json.loads(node("tables.mjs", folder() / "protocol.js"))
    for side, union in (("client", ClientMessage), ("server", ServerMessage)):
        shapes = {each.__struct_config__.tag: struct_shape(each) for each in get_args(union)}
        assert tables["MESSAGES"][side] == shapes
    transitions = {
        role: {
            state.value: {event: target.value for event, target in row.items()}
            for state, row in rows.items()
        }
        for role, rows in TRANSITIONS.items()
    }
    assert tables["TRANSITIONS"] == transitions
    assert tables["MAX_TEXT_BYTES"] == {
        "client": codec.MAX_CLIENT_TEXT_BYTES,
        "server": codec.MAX_SERVER_TEXT_BYTES,
    }


async def converse(server: Any, key: str, audio: Path) -> list[dict[str, Any]]:
    # Node 20 has a browser's WebSocket behind this flag, node 22 without it.
    process = await asyncio.create_subprocess_exec(
        str(NODE), "--experimental-websocket", str(HERE / "converse.mjs"),
        str(folder() / "client.js"), f"{server.url}/v1/stream", key, str(audio),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in output.decode().splitlines()]


async def test_a_conversation_with_a_real_server(running, clip_wav, tmp_path: Path) -> None:
    audio = tmp_path / "clip.pcm"
    audio.write_bytes(clip_wav.read_bytes()[44 : 44 + 32000 * 3])
    with running(keys=("sesame/?+~",)) as server:
        heard = await converse(server, "sesame/?+~", audio)
        refused = await converse(server, "wrong", audio)
    kinds = [message["type"] for message in heard]
    assert kinds[-1] == "done"
    assert {"ack", "speech_started", "speech_ended", "trace", "flushed"} <= set(kinds)
    (final,) = [message for message in heard if message["type"] == "final"]
    assert final["words"]
    traces = [message for message in heard if message["type"] == "trace"]
    assert traces[-1]["canvases"][-1] == final["text"]
    assert refused == [{"type": "failed", "code": "refused"}]
