"""A changed file is read by itself, a wrong one changes nothing, the withdrawn are sent away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from starlette.requests import HTTPConnection
from structlog.testing import capture_logs

from stream_server.errors import DiffscribeError, Unauthorized
from stream_server.keyring import make_key, remove_key
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.key_watch import KeyWatch


class Sitter:
    def __init__(self) -> None:
        self.dismissed: list[DiffscribeError] = []

    async def dismiss(self, error: DiffscribeError) -> None:
        self.dismissed.append(error)


@contextlib.asynccontextmanager
async def watching(watch: KeyWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def opens(keys: Keys, secret: str) -> bool:
    scope = {"type": "http", "headers": [(b"x-api-key", secret.encode())], "query_string": b""}
    try:
        keys.check(HTTPConnection(scope))
    except Unauthorized:
        return False
    return True


def write_nonsense(file: Path) -> None:
    file.write_text("[keys.stage]\nsha256 = 'x'\n")


async def test_a_changed_file_is_read_and_the_withdrawn_leave(make_services, tmp_path) -> None:
    file: Path = tmp_path / "keys.toml"
    old, kept = make_key(file, "old"), make_key(file, "kept")
    keys, admission = Keys((), file), Admission(9)
    admission.open(make_services(), lambda: True)
    gone, stays = Sitter(), Sitter()
    by_name = {key.name: key for key in keys._all()}
    with admission.admit(gone, by_name["old"]), admission.admit(stays, by_name["kept"]):
        async with watching(KeyWatch(keys, admission, 0.01)):
            new = make_key(file, "new")
            await until(lambda: opens(keys, new))
            assert gone.dismissed == []
            remove_key(file, "old")
            await until(lambda: bool(gone.dismissed))
        assert "withdrawn" in str(gone.dismissed[0])
        assert stays.dismissed == []
    assert (opens(keys, old), opens(keys, kept)) == (False, True)


async def test_it_is_read_at_once_when_somebody_asks(tmp_path) -> None:
    file: Path = tmp_path / "keys.toml"
    make_key(file, "old")
    keys = Keys((), file)
    watch = KeyWatch(keys, Admission(1), 3600.0)
    async with watching(watch):
        new = make_key(file, "new")
        await asyncio.sleep(0.02)
        assert not opens(keys, new)
        watch.ask()
        await until(lambda: opens(keys, new))


async def test_a_wrong_file_is_told_once_and_changes_nothing(tmp_path) -> None:
    file: Path = tmp_path / "keys.toml"
    secret = make_key(file, "stage")
    keys = Keys((), file)
    with capture_logs() as logs:
        async with watching(KeyWatch(keys, Admission(1), 0.01)):
            write_nonsense(file)
            await until(lambda: bool(logs))
            await asyncio.sleep(0.05)
    assert [line["log_level"] for line in logs] == ["error"]
    assert opens(keys, secret)


@pytest.mark.parametrize("plain", [(), ("sesame",)])
async def test_without_a_file_there_is_nothing_to_read(plain: tuple[str, ...]) -> None:
    with capture_logs() as logs:
        async with watching(KeyWatch(Keys(plain), Admission(1), 0.005)):
            await asyncio.sleep(0.03)
    assert logs == []
