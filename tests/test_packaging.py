"""What is installed: every requirement is pinned, and the light client stays light."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in found}


def requirements(pyproject: dict[str, Any]) -> list[Requirement]:
    """Everything that pyproject.toml asks for: to build, to run, in extras, to develop."""
    project = pyproject["project"]
    groups = [
        *pyproject["dependency-groups"].values(),
        *project["optional-dependencies"].values(),
        project["dependencies"],
        pyproject["build-system"]["requires"],
    ]
    lines = [line for group in groups for line in group if isinstance(line, str)]
    return [each for each in map(Requirement, lines) if each.name != project["name"]]


def missing(wanted: list[Requirement], pins: dict[str, str]) -> list[str]:
    """Return the requirements that the pins do not meet."""
    return [
        str(each)
        for each in wanted
        if not each.specifier.contains(pins.get(canonicalize_name(each.name), "0"))
    ]


def test_every_requirement_is_pinned(pyproject: dict[str, Any], pins: dict[str, str]) -> None:
    wanted = requirements(pyproject)
    assert len(wanted) > 20
    assert missing(wanted, pins) == []
    assert missing([Requirement("torch>=99"), Requirement("unheard-of>=1")], pins) == [
        "torch>=99",
        "unheard-of>=1",
    ]


def test_constraints_name_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pin = re.compile(r"#.*|[A-Za-z0-9._-]+==[0-9][0-9a-z.]*")
    assert [line for line in lines if not pin.fullmatch(line)] == []


def test_the_plain_installation_is_the_light_client(pyproject: dict[str, Any]) -> None:
    names = {Requirement(line).name for line in pyproject["project"]["dependencies"]}
    assert names == {"av", "msgspec", "numpy", "rich", "typer", "websockets"}


def test_a_wheel_has_the_caption_page(tmp_path: Path) -> None:
    # Built with the backend of this environment: nothing is fetched.
    build = (
        "import os, sys; from hatchling import build; os.chdir(sys.argv[1]);"
        "print(build.build_wheel(sys.argv[2]))"
    )
    command = [sys.executable, "-c", build, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    web = ROOT / "client" / "stream_client" / "web"
    wanted = {f"stream_client/web/{path.name}" for path in web.iterdir()}
    assert {"stream_client/web/index.html", "stream_client/web/protocol.js"} <= wanted
    assert wanted <= packed
