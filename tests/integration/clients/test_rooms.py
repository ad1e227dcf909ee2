"""LiveKit Agents, Pipecat and windows by REST take the minutes of a room of three people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def tracks(conversation: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of PCM for each participant."""
    folder = tmp_path_factory.mktemp("tracks")
    for name, track in conversation.tracks.items():
        (folder / f"{name}.pcm").write_bytes(track)
    return folder


def check(shown: list[dict[str, Any]], conversation: Any, alone: dict[str, str]) -> None:
    assert [each for each in shown if "error" in each] == []
    finals = [each for each in shown if each["final"] and each["text"]]
    assert {each["speaker"] for each in finals} == set(conversation.tracks)
    for name in conversation.tracks:
        text = " ".join(each["text"] for each in finals if each["speaker"] == name)
        # They resample by their own means, and partials may hold a word fast.
        allowed = conversation.errors(name, alone[name]) + 2
        assert conversation.errors(name, text) <= allowed, (name, text, alone[name])


@pytest.mark.model
@pytest.mark.speech
@pytest.mark.parametrize("api", ["realtime", "flux"])
def test_livekit(hearing, run_client, tracks, conversation, alone, api: str) -> None:
    shown = run_client("livekit.txt", "run_livekit_room.py", hearing.url, api, str(tracks))
    check(shown, conversation, alone)
    assert [each for each in shown if not each["final"]], "text while they speak"


@pytest.mark.model
@pytest.mark.speech
@pytest.mark.parametrize("api", ["realtime", "deepgram"])
def test_pipecat(hearing, run_client, tracks, conversation, alone, api: str) -> None:
    shown = run_client("pipecat.txt", "run_pipecat_room.py", hearing.url, api, str(tracks))
    check(shown, conversation, alone)


@pytest.mark.model
@pytest.mark.speech
def test_windows_by_rest(hearing, run_client, tracks, conversation, alone) -> None:
    shown = run_client("openai.txt", "run_openai_windows.py", hearing.url, str(tracks))
    check(shown, conversation, alone)
    for each in shown:
        conversation.check_speaker(each["speaker"], each["start"], each["start"] + 1)
    assert [each for each in shown if not each["final"]], "text while they speak"
