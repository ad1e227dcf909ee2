"""What takes a training to a machine that reaches nothing: what is started there, and when."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import stream_server.training

AWAY = Path(stream_server.training.__file__).parent / "away"
SCRIPTS = ("bundle.sh", "say.sh", "there.sh")
NVIDIA = "#!/bin/sh\nprintf 'GPU 0: one\\nGPU 1: two\\n'\n"
PYTHON = """#!/bin/sh
echo "$CUDA_VISIBLE_DEVICES $@" >>"$SEEN"
case "$*" in
    *' synthesise '*) /bin/sleep 0.7; touch "$WORK/said" ;;
    *' run '*)
        [ -e "$WORK/said" ] || touch "$WORK/early"
        mkdir -p "$WORK/run/checkpoint"
        echo '{"step": 50}' ;;
esac
"""
"""Stands for the training itself, which has its own tests: says what it was called with."""


class There:
    """The machine, with a folder to which files come."""

    def __init__(self, folder: Path) -> None:
        self.files, self.work, self._seen = folder / "files", folder / "work", folder / "seen"
        programs = folder / "bin"
        for each in (self.files, programs):
            each.mkdir()
        for name, text in (
            ("nvidia-smi", NVIDIA),
            ("python3", PYTHON),
            ("sleep", "#!/bin/sh\n"),
            ("nproc", "#!/bin/sh\necho 10\n"),
        ):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self._seen.touch()
        self._environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "WORK": str(self.work),
            "SEEN": str(self._seen),
            "CUDA_VISIBLE_DEVICES": "-",
        }

    def call(self, *arguments: str) -> str:
        done = subprocess.run(
            ["sh", AWAY / "there.sh", *arguments],
            cwd=self.files,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def started(self, count: int) -> list[list[str]]:
        """Return what the training was called with, when it was that often."""
        end = time.monotonic() + 20
        while len(lines := self._lines()) < count and time.monotonic() < end:
            time.sleep(0.02)
        assert len(lines) == count, lines
        return lines

    def _lines(self) -> list[list[str]]:
        lines = (line.split(" ") for line in self._seen.read_text().splitlines())
        return [line for line in lines if line[-1] != "stream_server.training.cli"]

    def bring(self, name: str, **contents: str) -> None:
        """Let an archive come, of these files; ``folder__name`` is one in a folder."""
        folder = self.files.parent / "made"
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in contents.items():
            target = folder / path.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        subprocess.run(["tar", "-C", folder, "-cJf", self.files / name, "."], check=True)


@pytest.fixture
def there(tmp_path: Path) -> There:
    return There(tmp_path)


def _option(call: list[str], name: str) -> str:
    return call[call.index(name) + 1]


def test_the_scripts_are_sound() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    command = ["shellcheck", *(AWAY / name for name in SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_synthesisers_start_once_and_when_what_they_need_is_there(there: There) -> None:
    there.bring("voices.tar.xz", kokoro__voices="")
    there.call("begin")
    there.started(0)
    there.bring("source.tar.xz", source__recipe="")
    there.call("begin")
    (synthetic,) = there.started(1)
    assert "synthesise" in synthetic
    assert _option(synthetic, "--workers") == "2"
    subprocess.run(
        "printf weights | xz | split -b 40 -d - kokoro.onnx.xz.",
        shell=True,
        check=True,
        cwd=there.files,
    )
    (there.files / "kokoro.onnx.xz.01").rename(there.files / "later")
    there.call("begin")
    there.started(1)
    (there.files / "later").rename(there.files / "kokoro.onnx.xz.01")
    there.call("begin")
    kokoro = there.started(2)[1]
    assert (there.work / "kokoro" / "kokoro.onnx").read_text() == "weights"
    assert _option(kokoro, "--devices") == "cuda:0,cuda:1"
    assert _option(kokoro, "--workers") == "8"
    there.call("begin")
    there.started(2)


def test_what_comes_goes_to_its_place(there: There) -> None:
    for name in ("pack-01.bin", "model-01-of-04.safetensors"):
        (there.files / name).write_text(name)
    told = there.call("begin")
    assert "pack-01.bin" in told
    assert (there.work / "pack" / "pack-01.bin").read_text() == "pack-01.bin"
    assert (there.work / "start" / "model-01-of-04.safetensors").is_file()
    assert list(there.files.iterdir()) == []


def test_every_device_trains_the_same_network(there: There) -> None:
    there.call("train", "20")
    first, second = sorted(there.started(2))
    assert (first[0], second[0]) == ("0", "1")
    assert (_option(first, "--place"), _option(second, "--place")) == ("0", "1")
    for each in (first, second):
        assert _option(each, "--peers") == "2"
        assert _option(each, "--minutes") == "20"
        assert _option(each, "--start") == str(there.work / "start")


def test_training_begins_when_all_is_said(there: There) -> None:
    there.bring("source.tar.xz", source__recipe="")
    there.call("begin")
    there.call("train", "1")
    there.started(3)
    assert (there.work / "said").exists()
    assert not (there.work / "early").exists()


def test_waiting_ends_when_the_checkpoint_is_there(there: There) -> None:
    there.call("train", "1")
    there.started(2)
    (there.work / "run" / "checkpoint" / "config.json").touch()
    began = time.monotonic()
    assert '"step": 50' in there.call("wait", "50")
    assert time.monotonic() - began < 40


def test_another_command_is_refused(tmp_path: Path) -> None:
    there = There(tmp_path)
    with pytest.raises(AssertionError, match=r"begin \| train MINUTES \| wait SECONDS"):
        there.call("fly")
