"""``stream-server evaluate`` on a toy manifest, with a recogniser that needs no weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stream_server.errors import ConfigError
from stream_server.evaluation import cli
from stream_server.evaluation.subject import Subject
from stream_server.recogniser.fake import FakeRecogniser

runner = CliRunner()


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Subject:
        return Subject(FakeRecogniser())

    monkeypatch.setattr(cli, "load_subject", load)


@pytest.fixture
def manifest(write_manifest: Callable[..., Path]) -> Path:
    return write_manifest([("a.wav", "one", "x", 1.0), ("n.wav", None, None, 1.0, None)])


def invoke(*arguments: object) -> Result:
    return runner.invoke(cli.app, [str(each) for each in arguments])


def test_json_alone_is_on_standard_output(manifest: Path, tmp_path: Path) -> None:
    picture = tmp_path / "sweep.png"
    result = invoke(
        "--manifest", manifest, "--steps", "2,4", "--json", "--texts", "--plot", picture
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert set(document) == {"model", "results"}
    assert [entry["steps"] for entry in document["results"]] == [2, 4]
    assert set(document["results"][0]) >= {"wer", "cer", "rtf", "utterances"}
    assert "a.wav: one |" in result.stderr
    assert picture.stat().st_size > 1000


def test_table_is_for_people(manifest: Path) -> None:
    result = invoke("--manifest", manifest)
    assert result.exit_code == 0, result.output
    assert "WER" in result.stdout
    assert "a.wav" not in result.stderr


def test_streaming_adds_delays(manifest: Path) -> None:
    result = invoke("--manifest", manifest, "--streaming", "--json")
    entry = json.loads(result.stdout)["results"][0]
    assert entry["utterances"] == 1
    assert set(entry) >= {"first_partial_ms", "final_ms", "upwr", "normalized_erasure"}


def test_no_speech_counts_what_should_not_be_there(manifest: Path) -> None:
    result = invoke("--manifest", manifest, "--no-speech", "--silence", 2, "--json")
    noise, silence, both = json.loads(result.stdout)["results"]
    assert noise["words_heard"] > 0  # the fake hears words in any sound
    assert (silence["set"], silence["words_heard"], silence["wer"]) == ("silence", 0, None)
    assert both["words_heard"] == noise["words_heard"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "two"], "steps"),
        (["--pace", "slow"], "virtual or realtime"),
        (["--speaker", "nobody"], "transcribed"),
        (["--batch", "99"], "batch"),
    ],
)
def test_wrong_options_are_refused(manifest: Path, arguments: list[str], said: str) -> None:
    result = invoke("--manifest", manifest, *arguments)
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)


def test_a_manifest_is_needed(tmp_path: Path) -> None:
    assert isinstance(invoke("--steps", 2).exception, ConfigError)
    assert isinstance(invoke("--manifest", tmp_path / "no.jsonl").exception, ConfigError)


@pytest.mark.speech
def test_held_out_clips_of_a_real_set() -> None:
    root = Path(__file__).parents[3]
    manifest = root.parent / "shared" / "speech" / "philipp" / "manifest.jsonl"
    if not manifest.is_file():
        pytest.skip(f"{manifest} is not there: recordings are not in the repository")
    recipe = root / "stream_server" / "training" / "recipes" / "embedded_en.toml"
    result = invoke("--manifest", manifest, "--held-out", recipe, "--json")
    assert json.loads(result.stdout)["results"][0]["utterances"] == 30
