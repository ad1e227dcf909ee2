"""The Dockerfile, what gets into the image, and its health check; built and run on demand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
HEALTH = ROOT / "docker" / "health.py"


def stages() -> dict[str, str]:
    """The text of each stage, by name."""
    parts = re.split(r"^FROM \S+ AS (\w[\w-]*)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_hadolint_has_nothing_to_say(linters: Path) -> None:
    done = subprocess.run(
        [linters / "bin" / "hadolint", DOCKERFILE], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_both_images_run_as_nobody_in_particular() -> None:
    found = stages()
    assert list(found)[-1] == "cpu", "what is built when no target is named"
    users = {name: re.findall(r"^USER (.+)$", text, re.MULTILINE) for name, text in found.items()}
    assert users["runtime"] == ["10001:10001"]
    assert users["cuda"] == ["0:0", "10001:10001"]
    assert users["cpu"] == []
    assert "HEALTHCHECK" in found["runtime"]
    for name in ("cpu", "runtime", "python"):
        assert not re.search(r"\b(gcc|pip|venv|git)\b", found[name]), name


def test_what_the_build_is_given_is_what_the_package_is_made_of() -> None:
    """An ignored file would be missing in the image, an unignored one would end its cache."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    given = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    files = {project["project"]["readme"], *project["project"]["license-files"]}
    assert given == packages | files | {"pyproject.toml", "constraints.txt", "docker/health.py"}
    assert [each for each in given if not (ROOT / each).exists()] == []


def ask_health(port: int) -> tuple[int, str]:
    # The proxy is one for weights; nothing of this machine's environment but that.
    environ = {"DIFFSCRIBE_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, HEALTH], env=environ, capture_output=True, text=True, timeout=30
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("options", [[], ["--tls-self-signed"]], ids=["http", "https"])
def test_the_health_check_asks_the_server(options: list[str]) -> None:
    main = "from stream_server.cli import main; main()"
    command = [sys.executable, "-u", "-c", main, "serve", "--model", "fake", "--port", "0"]
    with subprocess.Popen(
        [*command, *options, "--api-key", "sesame"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            port = next(
                int(found[1])
                for line in server.stdout
                if (found := re.search(r"ready on \S+:(\d+)", line))
            )
            assert ask_health(port) == (0, "")
        finally:
            server.terminate()
    status, said = ask_health(port)
    assert status == 1
    assert "refused" in said


def test_the_script_is_a_sound_one() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", ROOT / "docker" / "try.sh"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.container
@pytest.mark.timeout(3600)
def test_it_is_built_from_nothing_and_hears_the_clip() -> None:
    """As root on Debian; takes minutes."""
    done = subprocess.run([ROOT / "docker" / "try.sh"], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout.rstrip().endswith("== passed")
