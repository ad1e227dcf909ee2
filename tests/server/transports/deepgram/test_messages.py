"""The form of what Deepgram's SDKs read."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec

from stream_protocol.messages import Word
from stream_server.transports.deepgram.messages import (
    FileMetadata,
    Metadata,
    metadata,
    model_id,
    spoken_words,
)
from stream_server.transports.dialect import Call

WORDS = [Word("Don't!", 0, 8000, 0.123456), Word("--", 8000, 16_000, 1.0)]


def test_words_are_bare_and_punctuated_on_demand() -> None:
    plain = json.loads(msgspec.json.encode(spoken_words(WORDS, is_punctuated=False)))
    assert plain[0] == {"word": "don't", "start": 0.0, "end": 0.5, "confidence": 0.1235}
    assert plain[1]["word"] == "--"
    shown = spoken_words(WORDS, is_punctuated=True)
    assert [word.punctuated_word for word in shown] == ["Don't!", "--"]


def test_metadata_has_every_field_that_the_schema_asks_for() -> None:
    call = Call("id", datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC))
    fields = {"sha256": "00", "duration": 1.5, "channels": 1}
    live = json.loads(msgspec.json.encode(metadata(Metadata, call, "m", **fields)))
    file = json.loads(msgspec.json.encode(metadata(FileMetadata, call, "m", **fields)))
    assert live.pop("type") == "Metadata"
    assert live == file
    assert live["transaction_key"] == "deprecated"
    assert live["created"] == "2026-01-02T03:04:05.678Z"
    assert live["models"] == [model_id("m")] == list(live["model_info"])
    assert live["model_info"][model_id("m")]["name"] == "m"


def test_a_model_keeps_its_identifier() -> None:
    assert model_id("a") == model_id("a") != model_id("b")
