"""Speechmatics' own package."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

RATE = 16_000


def check_session(shown: list[dict[str, Any]]) -> list[str]:
    """Check what holds of every session; return the texts of its transcripts."""
    assert shown[0]["message"] == "RecognitionStarted"
    assert shown[-1]["message"] == "EndOfTranscript"
    added = [each["seq_no"] for each in shown if each["message"] == "AudioAdded"]
    assert added
    assert all(number == right for number, right in zip(added, count(1), strict=False))
    transcripts = [each for each in shown if each["message"] == "AddTranscript"]
    for each in transcripts:
        text = ""
        for result in each["results"]:
            glue = "" if result.get("attaches_to") == "previous" or not text else " "
            text += glue + result["alternatives"][0]["content"]
            assert each["metadata"]["start_time"] <= result["start_time"] <= result["end_time"]
        assert f"{text} " == each["metadata"]["transcript"]
    return [each["metadata"]["transcript"].strip() for each in transcripts]


def test_a_session(server, run_client, tmp_path, voice) -> None:
    path = Path(tmp_path / "turns.pcm")
    path.write_bytes(voice() * 2)
    shown = run_client("speechmatics.txt", "run_speechmatics.py", server.url, str(path), "raw")
    assert len(check_session(shown)) == 2
    assert len([each for each in shown if each["message"] == "EndOfUtterance"]) == 2


def test_a_wrong_key_is_refused_before_the_upgrade(running, run_client, tmp_path) -> None:
    path = Path(tmp_path / "nothing.pcm")
    path.write_bytes(b"")
    with running(keys=("sesame",)) as locked:
        arguments = ("speechmatics.txt", "run_speechmatics.py", locked.url, str(path), "refused")
        (failed,) = run_client(*arguments)
    assert failed["error"] == "ConnectionError"
    assert "401" in failed["text"]


@pytest.mark.model
def test_the_words_of_people(hearing, run_client, clip, native, recording) -> None:
    script = ("speechmatics.txt", "run_speechmatics.py", hearing.url)
    finals = check_session(run_client(*script, str(clip(RATE)), "finals"))
    assert finals == native(hearing, RATE)
    recording.check(finals)
    variables = {"SPEECHMATICS_RT_URL": hearing.url.replace("http", "ws", 1) + "/v2"}
    shown = run_client(*script, str(clip("opus")), "file", **variables)
    recording.check(check_session(shown))
