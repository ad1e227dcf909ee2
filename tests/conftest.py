"""What tests of several folders share: the product's source, a recording of people, free ports."""

from __future__ import annotations

import ast
import contextlib
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.environments import make_environment

# Other lanes of tests take the machine from this one: how long a case takes is no failure.
settings.register_profile(
    "lanes", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lanes")
# More than ten thousand hostile cases, counted at the end; the ordinary run has a third of them:
# `python -m pytest tests/integration/hostile --hypothesis-profile thorough`.
settings.register_profile("thorough", settings(), max_examples=300)

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


SPEECH = ROOT.parent / "shared" / "speech"


def pytest_report_header() -> str:
    """Say whom the tests hear."""
    absent = "absent from ../shared/speech; the bundled synthetic clip stands in"
    return f"recordings of people: {'there' if SPEECH.is_dir() else absent}"


@pytest.fixture(scope="session")
def recording() -> Any:
    """Voices, as ``recording.Recording``: people whom training left out, where they are there."""
    # Here, for it imports torch, which the tests of the product's shape do without.
    from tests.recording import bundled, record

    return record(SPEECH) if SPEECH.is_dir() else bundled()


@pytest.fixture(scope="session")
def load_embedded() -> Callable[[Any], Any]:
    """Loads the embedded model, as servers want it."""

    def load(_: Any) -> Any:
        from stream_server.config import RecogniserConfig
        from stream_server.server import load_recogniser

        return load_recogniser(RecogniserConfig(model="embedded", device="cpu", threads=1))

    return load


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Finds a TCP port that nobody listens on, and that nobody else is given."""
    # Below those that the system gives to whoever asks for any: the tests in other lanes do.
    ports = iter(random.sample(range(20_000, 32_000), 1_000))

    def find() -> int:
        for port in ports:
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                return port
        raise AssertionError("every port was given away")

    return find


@pytest.fixture(scope="session")
def environment(pytestconfig: pytest.Config) -> Callable[..., Path]:
    """Makes the environment of a file of requirements, kept in pytest's cache; its folder."""
    cache = pytestconfig.cache
    assert cache is not None
    folder = cache.mkdir("environments")
    return lambda source, *options: make_environment(source, folder, *options)
