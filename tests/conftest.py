"""The source of the product, parsed, for the tests of its shape."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("stream_server", "client/stream_client", "protocol/stream_protocol")


@dataclass(frozen=True, slots=True)
class Source:
    """A module of the product."""

    module: str
    """Its full name; a package's is that of its ``__init__``."""
    text: str
    tree: ast.Module

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it, as in the ``__init__`` of a package."""
        return not self.tree.body


def _parse(module: str, text: str) -> Source:
    return Source(module, text, ast.parse(text))


def _module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="session")
def parse() -> Callable[[str, str], Source]:
    """Makes a source from a module's name and its text."""
    return _parse


@pytest.fixture(scope="session")
def sources() -> tuple[Source, ...]:
    """Every module of the product."""
    found = [
        _parse(_module_name(path, ROOT / package), path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    assert {source.module.split(".")[0] for source in found} == {
        package.split("/")[-1] for package in PACKAGES
    }
    return tuple(found)
