"""Events as OpenAI writes them; every text is an event or a typed refusal."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from stream_server.errors import InvalidField
from stream_server.transports import openai_events as wire
from stream_server.transports.openai_events import decode


def test_audio_is_base64() -> None:
    text = json.dumps({"type": "x", "audio": base64.b64encode(b"\0\1").decode(), "more": [1]})
    assert decode(text, wire.AudioAppend).audio == b"\0\1"


def test_null_and_left_out_are_told_apart() -> None:
    fields = decode('{"session":{"turn_detection":null,"odd":1}}', wire.SessionUpdate).session
    assert fields.turn_detection is None
    assert fields.audio is UNSET


@pytest.mark.parametrize(
    ("text", "kind", "field"),
    [
        ("{", wire.Envelope, None),
        ("[" * 100_000, wire.Envelope, None),
        ("\ud800", wire.Envelope, None),
        ('{"type":1}', wire.Envelope, "type"),
        ('{"audio":"!"}', wire.AudioAppend, "audio"),
        ('{"session":{"type":5}}', wire.SessionUpdate, "session.type"),
        (
            '{"session":{"audio":{"input":{"turn_detection":{"silence_duration_ms":"x"}}}}}',
            wire.SessionUpdate,
            "session.audio.input.turn_detection.silence_duration_ms",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, kind: type[Any], field: str | None) -> None:
    with pytest.raises(InvalidField) as caught:
        decode(text, kind)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (
            wire.Delta("e", "i", "x"),
            {
                "type": "conversation.item.input_audio_transcription.delta",
                "event_id": "e",
                "item_id": "i",
                "content_index": 0,
                "delta": "x",
            },
        ),
        (
            wire.Committed("e", "i", None),
            {
                "type": "input_audio_buffer.committed",
                "event_id": "e",
                "item_id": "i",
                "previous_item_id": None,
            },
        ),
        (
            wire.Completed("e", "i", "x", wire.Usage(1.5), (wire.LanguageCode("en"),)),
            {
                "type": "conversation.item.input_audio_transcription.completed",
                "event_id": "e",
                "item_id": "i",
                "content_index": 0,
                "transcript": "x",
                "logprobs": None,
                "usage": {"type": "duration", "seconds": 1.5},
                "languages": [{"code": "en"}],
            },
        ),
    ],
)
def test_events_have_openais_names(event: wire.Event, shown: dict[str, Any]) -> None:
    assert json.loads(msgspec.json.encode(event)) == shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    st.text() | JSON.map(json.dumps),
    st.sampled_from([wire.Envelope, wire.AudioAppend, wire.SessionUpdate, wire.SessionFields]),
)
def test_anything_is_an_event_or_refused(text: str, kind: type[Any]) -> None:
    with contextlib.suppress(InvalidField):
        assert isinstance(decode(text, kind), kind)
