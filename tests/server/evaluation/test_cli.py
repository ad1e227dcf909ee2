"""``stream-server evaluate`` on a toy manifest, with a recogniser that needs no weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from stream_server.evaluation import cli
from stream_server.recogniser.fake import FakeRecogniser

runner = CliRunner()


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load_recogniser", lambda config: FakeRecogniser())


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    hum = np.sin(np.arange(16_000) * 0.1).astype(np.float32) * 0.3
    soundfile.write(tmp_path / "a.wav", hum, 16_000)
    entry = {"audio": "a.wav", "text": "one", "language": "en", "speaker": "x", "duration": 1.0}
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(entry) + "\n", encoding="utf-8")
    return path


def test_json_has_a_result_for_each_step_count(manifest: Path) -> None:
    result = runner.invoke(cli.app, ["--manifest", str(manifest), "--steps", "2,4", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [entry["steps"] for entry in document["results"]] == [2, 4]
    assert set(document["results"][0]) >= {"wer", "cer", "rtf", "utterances"}


def test_table_is_for_people(manifest: Path) -> None:
    result = runner.invoke(cli.app, ["--manifest", str(manifest), "--texts"])
    assert result.exit_code == 0, result.output
    assert "WER" in result.stdout
    assert "a.wav: one |" in result.stderr


@pytest.mark.parametrize("steps", ["", "0", "65", "two"])
def test_wrong_steps_are_refused(manifest: Path, steps: str) -> None:
    result = runner.invoke(cli.app, ["--manifest", str(manifest), "--steps", steps])
    assert result.exit_code == 2
    assert "steps" in result.stderr or "numbers" in result.stderr


def test_missing_and_empty_manifests_are_refused(tmp_path: Path, manifest: Path) -> None:
    assert runner.invoke(cli.app, ["--manifest", str(tmp_path / "no.jsonl")]).exit_code == 2
    result = runner.invoke(cli.app, ["--manifest", str(manifest), "--speaker", "nobody"])
    assert result.exit_code == 2
