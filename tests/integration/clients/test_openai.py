"""OpenAI's own packages, and the services of Pipecat and LiveKit that speak its APIs."""

from __future__ import annotations

import operator
import ssl
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pysubs2
import pytest

from stream_server.config import WebConfig
from stream_server.server import Server

PCM_RATE = 24_000
"""Hertz of OpenAI's realtime API."""

# --- with the fake model: the shape ---------------------------------------------------------------


@pytest.fixture(scope="module")
def two_turns(tmp_path_factory, voice) -> Path:
    """Two bursts of something like speech, as PCM at 24 kHz."""
    import numpy as np

    once = np.frombuffer(voice(), "<i2").astype(np.float32)
    both = np.concatenate([once, once])
    t = np.arange(len(both) * 3 // 2) / 1.5
    path = Path(tmp_path_factory.mktemp("turns") / "turns.pcm")
    path.write_bytes(np.interp(t, np.arange(len(both)), both).astype("<i2").tobytes())
    return path


def realtime(run_client, server, path: Path, mode: str) -> list[dict[str, Any]]:
    events = run_client("openai.txt", "run_openai_realtime.py", server.url, str(path), mode)
    assert not [event for event in events if event["type"] == "error"]
    assert len({event["event_id"] for event in events}) == len(events)
    return events


def by_item(events: list[dict[str, Any]]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Return the events of each item, with the ends of their names."""
    owned: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for event in events:
        item = event.get("item_id") or (event.get("item") or {}).get("id")
        if item:
            name = event["type"].removeprefix("conversation.").removeprefix("input_audio_buffer.")
            owned.setdefault(item, []).append((name.rpartition("transcription.")[2], event))
    return owned


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [
        event["transcript"] for event in events if event["type"].endswith("transcription.completed")
    ]


def check_items(
    events: list[dict[str, Any]],
    order: list[str],
    is_same: Callable[[str, str], bool] = operator.eq,
) -> None:
    previous = None
    for item, own in by_item(events).items():
        names = [name for name, _ in groupby(name for name, _ in own if name != "delta")]
        assert names == order
        assert own[-1][0] == "completed"
        deltas = "".join(event["delta"] for name, event in own if name == "delta")
        assert is_same(deltas, own[-1][1]["transcript"])
        assert own[-1][1]["usage"]["type"] == "duration"
        committed = dict(own)["committed"]
        assert committed["previous_item_id"] == previous
        previous = item


def test_realtime_with_server_vad(server, run_client, two_turns) -> None:
    events = realtime(run_client, server, two_turns, "vad")
    assert [event["type"] for event in events[:2]] == ["session.created", "session.updated"]
    order = ["speech_started", "speech_stopped", "committed", "item.added", "item.done"]
    check_items(events, [*order, "completed"])
    assert len(texts(events)) == 2
    assert all(texts(events))


def test_realtime_with_manual_turns(server, run_client, two_turns) -> None:
    events = realtime(run_client, server, two_turns, "manual")
    assert events[1]["session"]["audio"]["input"]["turn_detection"] is None
    check_items(events, ["committed", "item.added", "item.done", "completed"])
    with_vad = realtime(run_client, server, two_turns, "vad")
    assert texts(events) == [" ".join(texts(with_vad))]


def test_realtime_of_the_beta(server, run_client, two_turns) -> None:
    events = realtime(run_client, server, two_turns, "beta")
    assert [event["type"] for event in events[:2]] == [
        "transcription_session.created",
        "transcription_session.updated",
    ]
    order = ["speech_started", "speech_stopped", "committed", "item.created", "completed"]
    check_items(events, order)


# --- with the embedded model: the words -----------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize("mode", ["vad", "manual", "beta"])
def test_the_words_of_people_in_realtime(hearing, run_client, clip, recording, mode: str) -> None:
    recording.check(texts(realtime(run_client, hearing, clip(PCM_RATE), mode)))


def check_files(shown: list[dict[str, Any]], whole: str) -> None:
    """Check what both REST clients print of the same file."""
    values: dict[str, Any] = {each["name"]: each["value"] for each in shown}
    words = values["words"]
    assert words["text"] == whole
    assert words["segments"]
    assert words["segments"][0]["start"] < words["segments"][0]["end"] <= words["duration"]
    assert [word["word"] for word in words["words"]] == whole.split()
    events = [each["value"] for each in shown if each["name"] == "event"]
    assert "".join(event.get("delta") or "" for event in events) == whole
    assert events[-1]["text"] == whole
    assert values["model"]["object"] == "model"
    assert values["by environment"] == values["model"]


@pytest.mark.model
def test_the_words_of_people_in_files(hearing, run_client, clip, native, recording) -> None:
    whole = " ".join(native(hearing, 16_000))
    recording.check([whole])
    script = ("openai.txt", "run_openai_rest.py", hearing.url, str(clip("wav")))
    shown = run_client(*script, OPENAI_BASE_URL=f"{hearing.url}/v1")
    check_files(shown, whole)
    values: dict[str, Any] = {each["name"]: each["value"] for each in shown}
    assert values["json"]["text"] == values["text"].strip() == whole
    assert values["verbose_json"]["segments"]
    assert values["verbose_json"]["words"] is None
    for kind in ("srt", "vtt"):
        lines = pysubs2.SSAFile.from_string(values[kind], format_=kind)
        assert " ".join(line.plaintext.replace("\n", " ") for line in lines) == whole
    assert values["retrieved"] == values["model"]
    assert values["refused"] == {
        "code": "invalid_field",
        "param": "response_format",
        "type": "invalid_request_error",
    }
    assert values["translation"]["code"] == "unsupported_endpoint"
    assert values["missing"]["code"] == "model_not_found"


@pytest.mark.model
def test_the_words_of_people_from_javascript(hearing, run_client, clip, native, recording) -> None:
    whole = " ".join(native(hearing, 16_000))
    recording.check([whole])
    script = ("package.json", "run_openai.mjs", hearing.url, str(clip("wav")))
    shown = run_client(*script, OPENAI_BASE_URL=f"{hearing.url}/v1")
    check_files(shown, whole)
    values: dict[str, Any] = {each["name"]: each["value"] for each in shown}
    refused = {"status": 400, "code": "invalid_field", "param": "response_format"}
    assert values["refused"] == refused


def said(shown: list[dict[str, Any]], kind: str) -> list[str]:
    return [
        each.get("text") or "".join(each.get("texts", ())) for each in shown if each["kind"] == kind
    ]


@pytest.fixture
def https(running, load_embedded, tmp_path) -> Iterator[tuple[Server, str]]:
    """A server with the embedded model and a certificate of its own, and a file that holds it."""
    with running(load=load_embedded, web=WebConfig(tls_self_signed=True)) as server:
        file = Path(tmp_path / "certificate.pem")
        file.write_text(ssl.get_server_certificate(("127.0.0.1", server.port)))
        yield server, str(file)


@pytest.mark.model
def test_the_words_of_people_in_realtime_from_javascript(
    https, run_client, clip, recording
) -> None:
    server, certificate = https
    script = ("package.json", "run_openai_realtime.mjs", server.url, str(clip(PCM_RATE)))
    *events, closed = run_client(*script, NODE_EXTRA_CA_CERTS=certificate)
    assert [event["type"] for event in events[:2]] == ["session.created", "session.updated"]
    assert not [event for event in events if event["type"] == "error"]
    assert closed["code"] == 1000
    order = ["speech_started", "speech_stopped", "committed", "item.added", "item.done"]
    check_items(events, [*order, "completed"], recording.is_but_for_corrections)
    recording.check(texts(events))


@pytest.mark.model
@pytest.mark.parametrize("mode", ["vad", "manual", "rest"])
def test_pipecat(hearing, run_client, clip, native, recording, mode: str) -> None:
    shown = run_client("pipecat.txt", "run_pipecat.py", hearing.url, str(clip(16_000)), mode)
    finals = said(shown, "TranscriptionFrame")
    assert said(shown, "ErrorFrame") == []
    recording.check(finals)
    if mode == "rest":
        assert finals == [" ".join(native(hearing, 16_000))]
    else:
        interim = "".join(said(shown, "InterimTranscriptionFrame"))
        assert recording.is_but_for_corrections(interim, "".join(finals))
    if mode == "vad":
        starts = said(shown, "ProposedUserStartedSpeakingFrame")
        ends = said(shown, "ProposedUserStoppedSpeakingFrame")
        assert len(starts) == len(ends) >= len(finals), "noise has a start and an end as well"


@pytest.mark.model
@pytest.mark.parametrize("mode", ["realtime", "rest"])
def test_livekit(hearing, run_client, clip, native, recording, mode: str) -> None:
    shown = run_client("livekit.txt", "run_livekit.py", hearing.url, str(clip(16_000)), mode)
    finals = said(shown, "final_transcript")
    recording.check(finals)
    if mode == "rest":
        assert finals == [" ".join(native(hearing, 16_000))]
    else:
        starts, ends = said(shown, "start_of_speech"), said(shown, "end_of_speech")
        assert len(starts) == len(ends) >= len(finals), "noise has a start and an end as well"
