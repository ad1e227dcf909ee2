"""curl, as the README says it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pysubs2
import pytest


def curl(*arguments: str, folder: Path) -> str:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("no curl here")
    done = subprocess.run(
        [program, "-sS", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.model
def test_the_words_of_people_in_a_file(hearing, recording, tmp_path) -> None:
    recording.write(tmp_path / "talk.mp3")
    command = ("-F", "file=@talk.mp3", f"{hearing.url}/v1/audio/transcriptions")
    recording.check([json.loads(curl(*command, folder=tmp_path))["text"]])
    text = curl("-F", "response_format=srt", *command, folder=tmp_path)
    lines = pysubs2.SSAFile.from_string(text, format_="srt")
    recording.check([line.plaintext for line in lines])
    assert lines[0].start / 1000 == pytest.approx(recording.starts[0], abs=0.6)
