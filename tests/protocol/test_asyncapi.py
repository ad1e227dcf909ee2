from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import yaml

from stream_protocol import asyncapi
from stream_protocol.messages import SUBPROTOCOL, ClientMessage, ErrorCode, ServerMessage

FILE = Path(__file__).parents[2] / "protocol/asyncapi.yaml"


@pytest.fixture(scope="module")
def document():
    return yaml.safe_load(asyncapi.render())


def test_the_file_is_current():
    assert FILE.read_text() == asyncapi.render(), (
        "run: python -m stream_protocol.asyncapi > protocol/asyncapi.yaml"
    )


def test_another_reader_of_yaml_sees_the_same(document):
    assert document == json.loads(json.dumps(asyncapi._document()))


def test_every_message_is_there(document):
    kinds = get_args(ClientMessage) + get_args(ServerMessage)
    names = {"Audio", *(kind.__name__ for kind in kinds)}
    assert document["asyncapi"] == "3.0.0"
    assert set(document["components"]["messages"]) == names
    assert set(document["channels"]["stream"]["messages"]) == names
    assert SUBPROTOCOL in document["channels"]["stream"]["description"]
    sent = {ref["$ref"] for one in document["operations"].values() for ref in one["messages"]}
    assert sent == {f"#/channels/stream/messages/{name}" for name in names}


def test_every_reference_leads_somewhere(document):
    def walk(node):
        if isinstance(node, dict):
            if "$ref" in node:
                target = document
                for part in node["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for item in node.values():
                walk(item)
        elif isinstance(node, list):
            for item in node:
                walk(item)

    walk(document)


def test_strings_under_the_fields_become_descriptions(document):
    schemas = document["components"]["schemas"]
    silence = schemas["Endpointing"]["properties"]["silence_ms"]
    assert silence["description"] == "Milliseconds of silence that end a segment; 100 to 5000."
    assert "description" not in schemas["Ready"]["properties"]["session"]
    assert sorted(schemas["Error"]["properties"]["code"]["enum"]) == sorted(get_args(ErrorCode))


@pytest.mark.parametrize(
    "value",
    ["", "a: b", "- a", "null", "No", "1.0", "#x", "a #b", "{", "'", '"', "é", "a\nb", " a"],
)
def test_awkward_strings_survive(value):
    text = "\n".join(asyncapi._yaml({"key": value, "list": [value], "deep": [{"k": value}]}, 0))
    assert yaml.safe_load(text) == {"key": value, "list": [value], "deep": [{"k": value}]}


def test_main_prints_it(capsys):
    asyncapi.main()
    assert capsys.readouterr().out == asyncapi.render()
