"""The command line: flags from the list of options, one line for each error."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from stream_server import cli
from stream_server.config import options
from stream_server.errors import ModelError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in options():
        monkeypatch.delenv(option.variable, raising=False)
    monkeypatch.delenv("DIFFSCRIBE_CONFIG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Runs the command and returns exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        output, errors = capsys.readouterr()
        return int(caught.value.code or 0), output, errors

    return call


def test_every_option_is_a_flag_of_serve_and_config(run) -> None:
    for command in ("serve", "config"):
        code, output, _ = run(command, "--help")
        assert code == 0
        assert {option.flag for option in options() if option.flag not in output} == set()


def test_flags_come_before_environment_before_file(run, monkeypatch, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[limits]\nmax_sessions = 1\nmax_message_bytes = 2000\n[listen]\nport = 3\n")
    monkeypatch.setenv("DIFFSCRIBE_MAX_MESSAGE_BYTES", "4000")
    monkeypatch.setenv("DIFFSCRIBE_PORT", "4")
    code, output, _ = run("config", "--config", str(file), "--port", "5")
    written = tomllib.loads(output)
    assert code == 0
    assert written["limits"]["max_sessions"] == 1
    assert written["limits"]["max_message_bytes"] == 4000
    assert written["listen"]["port"] == 5


def test_keys_may_be_several_and_are_not_printed(run, monkeypatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(cli, "render_toml", lambda config: str(seen.append(config)))
    run("config", "--api-key", "one", "--api-key", "two")
    assert seen[0].listen.api_key == ("one", "two")
    monkeypatch.undo()
    assert "sesame" not in run("config", "--api-key", "sesame")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--port", "abc"], "--port='abc' is not valid"),
        (["serve", "--port", "70000"], "--port=70000 is not valid"),
        (["serve", "--steps", "0"], "--steps=0 is not valid"),
        (["serve", "--prot", "1"], "No such option: --prot"),
        (["serve", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (["launch"], "No such command 'launch'"),
        (["transcribe"], "argument 'file'"),
        (["transcribe", "/nowhere.wav", "--model", "fake"], "/nowhere.wav"),
        (["transcribe", "x.wav", "--format", "exe"], "exe"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(run, arguments: list[str], said: str) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert said in errors
    assert errors.startswith("stream-server: ")
    assert len(errors.strip().splitlines()) == 1


def test_a_wrong_variable_is_named(run, monkeypatch) -> None:
    monkeypatch.setenv("DIFFSCRIBE_STEPS", "many")
    code, _, errors = run("config")
    assert code == 2
    assert "DIFFSCRIBE_STEPS='many' is not valid" in errors


@pytest.mark.parametrize("format", ["text", "json", "srt", "vtt"])
def test_transcribe(run, speech, tmp_path: Path, format: str) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(speech(1.0))
    code, output, errors = run("transcribe", str(file), "--model", "fake", "--format", format)
    assert code == 0
    assert output.strip()
    assert "loading model fake" in errors


def test_transcribe_with_a_trace(run, speech, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(speech(1.0))
    code, output, _ = run("transcribe", str(file), "--model", "fake", "--trace", "--steps", "2")
    assert code == 0
    assert [line.split(" | ")[0] for line in output.splitlines()][:2] == [
        "segment 0 step 1/2",
        "segment 0 step 2/2",
    ]


def test_what_cannot_be_done_is_one_line_and_exit_code_1(run, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "a.wav"
    file.write_text("no audio")
    code, output, errors = run("transcribe", str(file), "--model", "fake")
    assert (code, output) == (1, "")
    assert errors.splitlines()[-1].startswith("stream-server: the file is not audio")

    def fail(_: object, **__: object) -> None:
        raise ModelError("no weights\nat all")

    monkeypatch.setattr("stream_server.server.load_recogniser", fail)
    monkeypatch.setattr("stream_server.server.build.__defaults__", (fail,))
    code, _, errors = run("serve", "--port", "0", "--model", "fake", "--log-level", "error")
    assert code == 1
    assert errors.splitlines()[-1] == "stream-server: no weights at all"


def test_version(run) -> None:
    code, output, _ = run("--version")
    assert code == 0
    assert output.startswith("diffscribe ")


def test_without_a_command_there_is_help(run) -> None:
    code, output, errors = run()
    assert "transcribe" in output + errors
    assert code in (0, 2)


def test_commands_elsewhere_are_imported_when_called(run, monkeypatch) -> None:
    import typer

    module = types.ModuleType("elsewhere")
    module.app = typer.Typer()
    module.app.command()(lambda: typer.echo("far away"))
    module.__spec__ = types.SimpleNamespace(name="elsewhere")
    lazy = cli.LazyCommand("elsewhere", "Goes far.", "x")
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    monkeypatch.setitem(cli.LAZY_COMMANDS, "travel", lazy)
    assert run("travel")[:2] == (0, "far away\n")
    monkeypatch.delitem(sys.modules, "elsewhere")
    monkeypatch.setattr(cli, "_is_there", lambda name: True)
    code, output, _ = run("--help")  # lists it without importing it
    assert code == 0
    assert "Goes far." in output
    code, _, errors = run("travel")
    assert (code, "diffscribe[x]" in errors) == (1, True)


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["config"], ["--version"]])
def test_nothing_heavy_is_imported_for_what_is_quick(arguments: list[str]) -> None:
    code = (
        "import sys; from stream_server.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'transformers', 'av', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(cli.__file__).parents[1],
        env={"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_light_installation_says_what_to_install(run, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith("stream_server.")]:
        if name not in ("stream_server.cli", "stream_server.config", "stream_server.errors"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "structlog", None)  # as if it were not installed
    code, output, errors = run("serve", "--model", "fake")
    assert (code, output) == (1, "")
    assert errors.splitlines()[-1] == (
        "stream-server: structlog is not installed, which the server needs: "
        "pip install 'diffscribe[server]'"
    )


def test_a_missing_part_of_ours_is_not_blamed_on_the_installation(run, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "stream_server.logs", raising=False)
    monkeypatch.setitem(sys.modules, "stream_server.logs", None)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve", "--model", "fake"])
