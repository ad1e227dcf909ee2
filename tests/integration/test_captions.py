"""`stream-client captions` beside a real server and the model: the file is good at each moment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import webvtt

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests" / "data" / "digits.opus"


@pytest.mark.model
def test_the_file_grows_as_people_speak_and_can_be_read_at_each_moment(tmp_path: Path) -> None:
    path = tmp_path / "captions.vtt"
    command = (
        *(sys.executable, str(ROOT / "tests" / "with_server.py"), "--", "stream-client"),
        *("captions", str(CLIP), "--out", str(path), "--live"),
    )
    own = Path(sys.executable).parent
    environ = {**os.environ, "PATH": f"{own}:{os.environ['PATH']}"}
    states: list[list[str]] = []
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
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
    assert len(states) > len(last) + 3, "it had partials too"
    lengths = [len(state) for state in states]
    assert set(range(len(last) + 1)) <= set(lengths), "cue by cue"
    spoken = (CLIP.parent / "digits.txt").read_text(encoding="utf-8").lower().split()
    heard = " ".join(last).lower().replace(".", "").replace(",", "").split()
    # Not to the letter: the model is trained anew now and then.
    assert len(set(spoken) & set(heard)) >= 0.7 * len(set(spoken))
