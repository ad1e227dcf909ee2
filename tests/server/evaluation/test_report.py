"""Results are sums over clips, for people and for programs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from stream_server.evaluation.accuracy import Heard
from stream_server.evaluation.manifest import Example
from stream_server.evaluation.report import (
    Decoding,
    Result,
    encode_json,
    summarise,
    summarise_all,
    tables,
)
from stream_server.evaluation.track import Track

DECODING = Decoding(8, "ctc", "uniform", 2)


def heard(
    reference: str | None, text: str, language: str | None = "en", track: Track | None = None
) -> Heard:
    example = Example(Path("a.wav"), reference, language, "s", 2.0)
    return Heard(example, text, steps=4, audio=2.0, seconds=0.5, track=track)


def show(results: list[Result]) -> str:
    stream = io.StringIO()
    for table in tables(results):
        Console(file=stream, width=110).print(table)
    return stream.getvalue()


def test_a_result_pools_the_clips() -> None:
    result = summarise("s", [heard("a b", "a b"), heard("c d", "c")], DECODING, False)
    assert result.wer == pytest.approx(0.25)
    assert result.rtf == pytest.approx(0.25)
    assert (result.words, result.words_heard, result.utterances) == (4, 3, 2)
    assert (result.steps, result.steps_run, result.batch) == (8, 4, 2)
    assert (result.start, result.scheme, result.language) == ("ctc", "uniform", "en")
    assert result.first_partial_ms is None


def test_clips_without_text_have_no_error_rate() -> None:
    result = summarise("noise", [heard(None, "oh no", None)], DECODING, False)
    assert (result.wer, result.cer, result.words, result.words_heard) == (None, None, 0, 2)
    assert "noise" in show([result])


def test_several_sets_are_pooled_by_language() -> None:
    sets = [
        ("one", [heard("a", "a")]),
        ("two", [heard("b", "x"), heard("你好", "你好", "zh")]),
    ]
    results = summarise_all(sets, DECODING, False)
    assert [(each.set, each.language) for each in results] == [
        ("one", "en"),
        ("two", None),
        ("all", "en"),
        ("all", "zh"),
    ]
    assert results[2].wer == pytest.approx(0.5)
    assert (results[3].metric, results[3].cer) == ("cer", 0.0)
    assert len(summarise_all(sets[:1], DECODING, False)) == 1


def test_streams_add_delays_and_stability() -> None:
    one = Track((100.0, 300.0), (500.0,), (10.0,), 4, 10, 2, 5, ())
    two = Track((200.0,), (), (), 1, 10, 1, 0, ())
    result = summarise("s", [heard("a", "a", track=one), heard("b", "b", track=two)], DECODING, 0)
    assert (result.first_partial_ms, result.first_partial_p95_ms) == (200.0, 300.0)
    assert (result.final_ms, result.finalise_ms, result.partials) == (500.0, 10.0, 5)
    assert result.upwr == pytest.approx(0.15)
    assert result.normalized_erasure == pytest.approx(0.25)
    text = show([result])
    assert "first partial" in text
    assert "200, 300" in text


def test_json_has_a_model_and_results() -> None:
    plain = summarise("s", [heard("a b", "a b")], DECODING, False)
    silent = summarise("s", [heard(None, "", None)], DECODING, False)
    document = json.loads(encode_json("toy", [plain, silent]))
    assert set(document) == {"model", "results"}
    assert document["model"] == "toy"
    first, second = document["results"]
    assert set(first) >= {"steps", "wer", "cer", "rtf", "utterances", "wer_low", "wer_high"}
    assert "upwr" not in first
    assert second["wer"] is None


def test_the_table_shows_the_interval_of_the_usual_measure() -> None:
    result = summarise("s", [heard("你好", "你坏", "zh")], DECODING, False)
    assert "50.0 to 50.0" in show([result])
