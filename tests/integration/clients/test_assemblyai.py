"""AssemblyAI's own package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

RATE = 16_000


def check_turns(shown: list[dict[str, Any]]) -> list[str]:
    """Check what holds of every session; return the text of the formatted turns."""
    assert shown[0]["type"] == "Begin"
    assert shown[-1]["type"] == "Termination"
    turns = [each for each in shown if each["type"] == "Turn"]
    ends = [each for each in turns if each["end_of_turn"]]
    plain, formatted = ends[::2], ends[1::2]
    assert [each["turn_is_formatted"] for each in ends] == [False, True] * len(plain)
    for order, (one, other) in enumerate(zip(plain, formatted, strict=True)):
        assert one["turn_order"] == other["turn_order"] == order
        assert all(word["word_is_final"] for word in one["words"])
        stable = ""
        for each in turns:
            if each["turn_order"] == order and not each["end_of_turn"]:
                assert each["transcript"].startswith(stable)
                stable = each["transcript"]
        assert one["transcript"].startswith(stable)
    return [each["transcript"] for each in formatted]


def test_a_session(server, run_client, tmp_path, voice) -> None:
    path = Path(tmp_path / "turns.pcm")
    path.write_bytes(voice() * 2)
    shown = run_client("assemblyai.txt", "run_assemblyai.py", server.url, str(path), "stream")
    assert len(check_turns(shown)) == 2
    assert shown[-1]["audio_duration_seconds"] == 4


def test_a_wrong_key_is_refused_before_the_upgrade(running, run_client, tmp_path) -> None:
    path = Path(tmp_path / "nothing.pcm")
    path.write_bytes(b"")
    with running(keys=("sesame",)) as locked:
        shown = run_client("assemblyai.txt", "run_assemblyai.py", locked.url, str(path), "refused")
    assert shown == [{"type": "failed", "code": 401}]


@pytest.mark.model
def test_the_words_of_people(hearing, run_client, clip, recording) -> None:
    arguments = ("assemblyai.txt", "run_assemblyai.py", hearing.url, str(clip(RATE)), "stream")
    turns = check_turns(run_client(*arguments))
    assert len(turns) >= len(recording.said)
    recording.check(turns)
