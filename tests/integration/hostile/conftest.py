"""A patient server, a session that must not be harmed, and the count of hostile cases."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import is_hypothesis_test
from websockets.sync.client import connect

from stream_server.config import LimitsConfig
from stream_server.server import Server

HERE = Path(__file__).parent
SECONDS = 10
"""After which a server that says nothing is taken for dead."""
_COUNTS = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count."""
    config.stash[_COUNTS] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Count the cases that hypothesis makes here."""
    for item in items:
        test = getattr(item, "obj", None)
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.hostile)
            if is_hypothesis_test(test):
                inner = test.hypothesis.inner_test
                test.hypothesis.inner_test = _counted(inner, item.name, config.stash[_COUNTS])


def _counted(inner: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    @functools.wraps(inner)
    def run(*arguments: Any, **named: Any) -> Any:
        counts[name] += 1
        return inner(*arguments, **named)

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print how many cases there were."""
    counts = config.stash[_COUNTS]
    if counts:
        terminalreporter.section(f"{counts.total()} hostile cases")
        for name, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:6} {name.removeprefix('test_')}")


@pytest.fixture(scope="module")
def wyoming(free_port: Any) -> int:
    """Where the server speaks Wyoming."""
    return int(free_port())


@pytest.fixture(scope="module")
def server(running: Any, wyoming: int) -> Iterator[Server]:
    """One server for everything, patient enough for the bystander."""
    limits = LimitsConfig(max_sessions=16, idle_timeout_ms=3_600_000)
    with running(limits, wyoming_port=wyoming) as server:
        yield server


@pytest.fixture(scope="module")
def bystander(server: Server, voice: Any) -> Iterator[str]:
    """A session that is open throughout, and must get its transcript after it all; its name."""
    url = server.url.replace("http", "ws", 1) + "/v1/stream"
    with connect(url, compression=None) as socket:
        socket.send('{"type":"start"}')
        session = json.loads(socket.recv(SECONDS))["session"]
        socket.send(voice()[:20_000])
        yield session
        socket.send(voice()[20_000:])
        socket.send('{"type":"stop"}')
        heard = [json.loads(message) for message in socket]
    assert heard[-1]["type"] == "done"
    assert [bool(m["text"]) for m in heard if m["type"] == "final"] == [True]
    assert httpx.get(f"{server.url}/readyz").json()["sessions"] == 0


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    """One client for all cases."""
    with httpx.Client(base_url=server.url, timeout=SECONDS) as client:
        yield client
        assert client.get("/readyz").json()["status"] == "ready"
