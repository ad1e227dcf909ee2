"""The AsyncAPI 3.0 description of the protocol, generated from the message types.

``python -m stream_protocol.asyncapi > protocol/asyncapi.yaml`` writes it; a test proves that the
file in the repository is current. The strings under the fields in ``messages`` become the
descriptions. Nothing here is used while streaming.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import msgspec

from stream_protocol import messages
from stream_protocol.messages import PROTOCOL_VERSION, SUBPROTOCOL, ClientMessage, ServerMessage

_SCHEMAS = "#/components/schemas/"
_MESSAGES = "#/components/messages/"
_PLAIN = re.compile(r"[A-Za-z_$/][\w$/.-]*( [\w$/.(),;-]+)*")
_RESERVED = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def render() -> str:
    """Return the whole description as YAML."""
    head = (
        "# Generated from protocol/stream_protocol/messages.py; do not edit.\n"
        "# python -m stream_protocol.asyncapi > protocol/asyncapi.yaml\n"
    )
    return head + "\n".join(_yaml(_document(), 0)) + "\n"


def _document() -> dict[str, Any]:
    client, server = get_args(ClientMessage), get_args(ServerMessage)
    audio = {
        "name": "audio",
        "title": "Audio",
        "summary": "A binary frame: samples in the announced encoding, or a piece of a container.",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary"},
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "diffscribe streaming transcription",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "description": "See README.md beside this file for order, units and life cycle.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:8000", "protocol": "ws"}},
        "channels": {
            "stream": {
                "address": "/v1/stream",
                "description": f"One WebSocket, subprotocol {SUBPROTOCOL}.",
                "messages": {
                    name: {"$ref": _MESSAGES + name}
                    for name in ("Audio", *(kind.__name__ for kind in (*client, *server)))
                },
            }
        },
        "operations": {
            "receiveFromClient": _operation("receive", ("Audio", *(k.__name__ for k in client))),
            "sendToClient": _operation("send", tuple(kind.__name__ for kind in server)),
        },
        "components": {
            "messages": {
                "Audio": audio,
                **{kind.__name__: _message(kind) for kind in (*client, *server)},
            },
            "schemas": _schemas((*client, *server)),
        },
    }


def _operation(action: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/stream"},
        "messages": [{"$ref": f"#/channels/stream/messages/{name}"} for name in names],
    }


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "name": kind.__struct_config__.tag,
        "title": kind.__name__,
        "summary": inspect.getdoc(kind),
        "contentType": "application/json",
        "payload": {"$ref": _SCHEMAS + kind.__name__},
    }


def _schemas(kinds: tuple[type[msgspec.Struct], ...]) -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_SCHEMAS + "{name}")
    texts = dict(_field_texts())
    for name, schema in schemas.items():
        for field, declared in schema["properties"].items():
            text = texts.get((name, field))
            if "$ref" in declared:
                # JSON Schema draft 7 ignores whatever stands beside a $ref.
                reference = {"$ref": declared.pop("$ref")}
                declared["allOf"] = [reference]
            if text is not None:
                declared["description"] = text
    return schemas


def _field_texts() -> Iterator[tuple[tuple[str, str], str]]:
    """Yield ((class, field), the string under the field)."""
    for node in ast.parse(inspect.getsource(messages)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, text in zip(node.body, node.body[1:], strict=False):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(value))),
                ):
                    yield (node.name, name), inspect.cleandoc(value)


def _yaml(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Yield the lines of a block mapping; scalars are plain where safe, else JSON strings."""
    pad = "  " * depth
    for key, item in value.items():
        name = _scalar(key)
        if isinstance(item, Mapping) and item:
            yield f"{pad}{name}:"
            yield from _yaml(item, depth + 1)
        elif isinstance(item, list) and any(isinstance(entry, Mapping) for entry in item):
            yield f"{pad}{name}:"
            for entry in item:
                first, *rest = _yaml(entry, depth + 2)
                yield f"{pad}  - {first.lstrip()}"
                yield from rest
        elif isinstance(item, list):
            yield f"{pad}{name}: [{', '.join(_scalar(entry) for entry in item)}]"
        else:
            yield f"{pad}{name}: {_scalar(item)}"


def _scalar(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    """Write the description to standard output."""
    sys.stdout.write(render())


if __name__ == "__main__":
    main()

__all__ = ["main", "render"]
