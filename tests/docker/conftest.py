"""The environment with the linters of docker/, made when it is first needed and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_SECONDS = 300
_UNREACHABLE = ("ConnectionError", "NewConnectionError", "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give everything here the time to make an environment."""
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(2 * _SECONDS))


def _install(command: list[str], place: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=place, env=environ, capture_output=True, text=True, timeout=_SECONDS
    )
    if done.returncode and any(word in done.stderr for word in _UNREACHABLE):
        pytest.skip("the registry is not reached")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="session")
def linters(pytestconfig: pytest.Config) -> Path:
    """The folder of an environment with what linters.txt names."""
    return _environment(
        pytestconfig,
        "linters.txt",
        lambda source: (
            [sys.executable, "-m", "venv", "."],
            ["bin/python", "-m", "pip", "install", "-q", "-r", str(source)],
        ),
    )


@pytest.fixture(scope="session")
def dclint(pytestconfig: pytest.Config) -> Path:
    """The linter of Compose files."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    place = _environment(
        pytestconfig,
        "package.json",
        lambda source: (
            ["cp", str(source), "."],
            ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"],
        ),
    )
    return place / "node_modules" / ".bin" / "dclint"


def _environment(
    pytestconfig: pytest.Config, name: str, commands: Callable[[Path], tuple[list[str], ...]]
) -> Path:
    assert pytestconfig.cache is not None
    source = HERE / name
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    place = pytestconfig.cache.mkdir("docker") / f"{source.stem}-{digest}"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for command in commands(source):
            _install(command, place)
        (place / "done").touch()
    return place
