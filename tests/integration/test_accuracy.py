"""The shipped model hears people whom its training left out, by the README's command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEECH = ROOT.parent / "shared" / "speech"
RECIPE = ROOT / "stream_server" / "training" / "recipes" / "embedded_en_voices.toml"


@pytest.mark.model
@pytest.mark.speech
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "limit", "options", "most"),
    [
        # The goal, and bounds over what the README tells: a worse checkpoint must not land.
        ("fsdd", 60, ("--spelled",), 0.05),
        ("speechocean762", 25, (), 0.40),
        ("ljspeech", 10, (), 0.20),
        ("commonvoice_few", 15, (), 0.65),
    ],
)
def test_words_of_people_kept_from_training(
    name: str, limit: int, options: tuple[str, ...], most: float
) -> None:
    manifest = SPEECH / name / "manifest.jsonl"
    if not manifest.is_file():
        pytest.skip("the recordings are not there: ../shared/speech")
    start = "from stream_server.cli import main; main()"
    command = [sys.executable, "-c", start, "evaluate", "--manifest", str(manifest)]
    command += ["--held-out", str(RECIPE), "--limit", str(limit), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["utterances"] >= limit
    assert result["words_heard"] > 0
    assert result["wer"] <= most
