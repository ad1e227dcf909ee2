"""The browser's client library under node: golden conversations, tables, a real server."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from stream_protocol import codec
from stream_protocol.connection import TRANSITIONS
from stream_protocol.messages import ClientMessage, ServerMessage
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
