"""Environments of packages that tests need and the project does not, made when first needed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL_SECONDS = 600
_UNREACHABLE = ("ConnectionError", "NewConnectionError", "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED")


def make_environment(source: Path, folder: Path, *options: str) -> Path:
    """Install what a file names, once; the test is skipped where it cannot be fetched.

    Args:
        source: requirements of Python, or a ``package.json``.
        folder: where environments are kept.
        options: of pip.

    Returns:
        The environment's own folder.
    """
    digest = hashlib.sha256(source.read_bytes() + " ".join(options).encode()).hexdigest()[:12]
    place = folder / f"{source.stem}-{digest}"
    done = place / "done"
    # Several processes may want it at once.
    with open(folder / f"{place.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            _fill(place, source, options)
            done.touch()
    return place


def _fill(place: Path, source: Path, options: tuple[str, ...]) -> None:
    if source.suffix == ".json":
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed")
        shutil.copy(source, place)
        _install(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], place)
        return
    # With the pip that there is, and no bytecode of what is never imported: half the time.
    _install([sys.executable, "-m", "venv", "--without-pip", "."], place)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python")]
    _install([*pip, "install", "-q", "--no-compile", *options, "-r", str(source)], place)


def _install(command: list[str], place: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    made = subprocess.run(
        command, cwd=place, env=environ, capture_output=True, text=True, timeout=INSTALL_SECONDS
    )
    if made.returncode:
        if any(sign in made.stderr for sign in _UNREACHABLE):
            pytest.skip(f"these packages cannot be fetched: {made.stderr[-200:]}")
        pytest.fail(f"{' '.join(command)}: {made.stderr[-2000:]}")


__all__ = ["INSTALL_SECONDS", "make_environment"]
