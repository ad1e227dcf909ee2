"""The specification names exactly the messages, fields, errors and limits that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from stream_protocol import messages
from stream_protocol.codec import MAX_CLIENT_TEXT_BYTES, MAX_SERVER_TEXT_BYTES
from stream_protocol.messages import ErrorCode, Message
from stream_server import errors
from stream_server.errors import wire_error

README = Path(__file__).parents[2] / "protocol/README.md"
REASONS = [
    errors.InvalidField,
    errors.BadAudio,
    errors.TooLarge,
    errors.LimitReached,
    errors.Unauthorized,
    errors.Overloaded,
    errors.Draining,
    errors.DeadlineExceeded,
    errors.RecognitionFailed,
    RuntimeError,
]
KINDS = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
]


def section(title):
    """The text under a heading of the specification, up to the next heading."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#)", README.read_text(), re.M | re.S)
    assert match, f"no heading {title}"
    return match[1]


def rows(text):
    """Cells of the rows of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_specification_has_every_field_with_its_default(kind):
    tag = kind.__struct_config__.tag
    table = rows(section(f"`{tag}`" if tag else kind.__name__))
    fields = msgspec.structs.fields(kind)
    assert [row[0] for row in table] == [f"`{field.name}`" for field in fields]
    for row, field in zip(table, fields, strict=True):
        if field.required:
            assert row[2] == "required"
        elif isinstance(field.default, Message):
            assert row[2] == "its defaults"
        else:
            assert row[2] == f"`{msgspec.json.encode(field.default).decode()}`"
        assert row[3]


def test_the_specification_has_every_error_code_as_the_server_answers_it():
    table = rows(section("Errors and close codes"))
    assert sorted(row[0].strip("`") for row in table) == sorted(get_args(ErrorCode))
    answers = {wire_error(kind("x")).code: wire_error(kind("x")) for kind in REASONS}
    for code, _, close, status, retryable, fatal in table:
        if wire := answers.get(code.strip("`")):
            assert (int(close), int(status)) == (wire.close_code, wire.http_status)
            assert (retryable == "yes", fatal == "yes") == (wire.retryable, wire.fatal)
    assert len(answers) == len(table) - len({"bad_message", "wrong_state"})


def test_the_specification_has_every_encoding():
    encodings = [row[0].strip("`") for row in rows(section("Audio"))]
    assert encodings == list(get_args(messages.Encoding))


def test_the_specification_has_the_codecs_limits():
    text = README.read_text()
    assert f"| text frame from a client | {MAX_CLIENT_TEXT_BYTES:,} bytes" in text
    assert f"| text frame from a server | {MAX_SERVER_TEXT_BYTES:,} bytes" in text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_messages_are_immutable_and_refuse_unknown_fields(kind):
    assert kind.__struct_config__.frozen
    assert kind.__struct_config__.forbid_unknown_fields
