"""The linters of docker/, in environments that are made when they are first needed and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.environments import INSTALL_SECONDS

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give everything here the time to make an environment."""
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(INSTALL_SECONDS + 120))


@pytest.fixture(scope="session")
def linters(environment: Callable[[Path], Path]) -> Path:
    """The folder of an environment with what linters.txt names."""
    return environment(HERE / "linters.txt")


@pytest.fixture(scope="session")
def dclint(environment: Callable[[Path], Path]) -> Path:
    """The linter of Compose files."""
    return environment(HERE / "package.json") / "node_modules" / ".bin" / "dclint"
