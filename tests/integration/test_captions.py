"""`stream-client captions` beside a real server and the model: the file is good at each moment."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pysubs2
import pytest
import webvtt

from stream_client.sources import decode_file

TESTS = Path(__file__).parents[1]
CLIP = TESTS / "data" / "digits.opus"
WITH_SERVER = TESTS / "with_server.py"


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(WITH_SERVER), "--", "stream-client", "captions", *arguments]


def share(spoken: str, heard: str) -> float:
    """How many of the words were heard: not all, as the model is trained anew now and then."""
    words = set(spoken.lower().split())
    return len(words & set(re.findall(r"[a-z]+", heard.lower()))) / len(words)


@pytest.mark.model
def test_the_file_grows_as_people_speak_and_can_be_read_at_each_moment(tmp_path: Path) -> None:
    path = tmp_path / "captions.vtt"
    arguments = (str(CLIP), "--out", str(path), "--live")
    states: list[list[str]] = []
    with subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if path.exists():
                captions = webvtt.read(str(path))  # raises on anything that is not whole
                text = [caption.text.replace("\n", " ") for caption in captions]
                if not states or text != states[-1]:
                    states.append(text)
            time.sleep(0.005)
    assert process.returncode == 0
    last = [caption.text.replace("\n", " ") for caption in webvtt.read(str(path))]
    assert states[0] == [], "it is there before anybody speaks"
    assert len(states) > len(last) + 1, "it had partials too"
    lengths = [len(state) for state in states]
    assert set(range(len(last) + 1)) <= set(lengths), "cue by cue"
    assert share(CLIP.with_suffix(".txt").read_text(encoding="utf-8"), " ".join(last)) >= 0.7


@pytest.mark.model
def test_two_speakers_on_the_channels_of_a_file(tmp_path: Path) -> None:
    samples = np.frombuffer(b"".join(decode_file(CLIP)), "<i2")
    apart = np.zeros((len(samples), 2), "<i2")
    turn = 3 * 16_000  # between the clip's first and second utterance
    apart[:turn, 0], apart[turn:, 1] = samples[:turn], samples[turn:]
    call, out = tmp_path / "call.wav", tmp_path / "call.srt"
    with wave.open(str(call), "wb") as file:
        file.setparams((2, 2, 16_000, 0, "NONE", ""))
        file.writeframes(apart.tobytes())
    arguments = (str(call), "--out", str(out), "--speaker", "Ada", "--speaker", "Bob")
    subprocess.run(command(*arguments), check=True, stdout=subprocess.DEVNULL)
    first, second, third = CLIP.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    said = [event.text.partition(": ") for event in pysubs2.load(str(out))]
    by_name = {
        name: " ".join(words for who, _, words in said if who == name) for name in ("Ada", "Bob")
    }
    assert {who for who, _, _ in said} == {"Ada", "Bob"}
    assert share(first, by_name["Ada"]) >= 0.7
    assert share(f"{second} {third}", by_name["Bob"]) >= 0.7
