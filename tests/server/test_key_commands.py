"""``stream-server keys``: the key is printed once, the file is found, mistakes are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_server import cli
from stream_server.config import options
from stream_server.keyring import digest, read_keys


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command and returns exit code, stdout and stderr."""
    for option in options():
        monkeypatch.delenv(option.variable, raising=False)
    monkeypatch.delenv("DIFFSCRIBE_CONFIG", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(["keys", *arguments])
        output, errors = capsys.readouterr()
        return int(caught.value.code or 0), output, errors

    return call


def test_a_key_is_added_listed_and_removed(run, tmp_path: Path) -> None:
    file = str(tmp_path / "keys.toml")
    code, output, _ = run("add", "stage", "--max-sessions", "2", "--keys-file", file)
    secret = output.strip()
    assert code == 0
    assert [key.digest for key in read_keys(Path(file))] == [digest(secret)]
    run("add", "bot", "--max-audio-s", "60", "--keys-file", file)
    code, output, _ = run("list", "--keys-file", file)
    assert output.splitlines() == ["stage max_sessions=2", "bot max_audio_s=60"]
    assert run("remove", "stage", "--keys-file", file)[0] == 0
    assert run("list", "--keys-file", file)[1] == "bot max_audio_s=60\n"


def test_the_file_is_that_of_the_server(run, tmp_path: Path, monkeypatch) -> None:
    file, config = tmp_path / "keys.toml", tmp_path / "server.toml"
    config.write_text(f"[listen]\nhost = '0.0.0.0'\n[keys]\nkeys_file = '{file}'\n")
    assert run("add", "one", "--config", str(config))[0] == 0
    monkeypatch.setenv("DIFFSCRIBE_KEYS_FILE", str(file))
    assert run("list")[1] == "one\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "--keys-file keys.toml"),
        (["add"], "argument 'name'"),
        (["add", "a b", "--keys-file", "{file}"], "NAME='a b'"),
        (["remove", "absent", "--keys-file", "{file}"], "can be read"),
        (["add", "a", "--max-sessions", "-1", "--keys-file", "{file}"], "max-sessions"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path: Path, arguments: list[str], said: str) -> None:
    file = str(tmp_path / "keys.toml")
    code, output, errors = run(*(each.format(file=file) for each in arguments))
    assert (code, output) == (2, "")
    assert said.lower() in errors.lower()
    assert len(errors.strip().splitlines()) == 1
