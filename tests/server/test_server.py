"""Beginning and end of a server; sessions on it are in tests/integration."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from stream_server.config import (
    Config,
    KeysConfig,
    LimitsConfig,
    ListenConfig,
    RecogniserConfig,
)
from stream_server.errors import ConfigError, ModelError
from stream_server.keyring import make_key, remove_key
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.server import Ready, _listen, build, load_recogniser

CONFIG = Config(listen=ListenConfig(port=0), recogniser=RecogniserConfig(model="fake"))


async def started(server) -> tuple[Ready, asyncio.Task[None]]:
    ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.serve(ready.set_result))
    await asyncio.wait({ready, task}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    return await ready, task


async def test_two_servers_live_in_one_process() -> None:
    servers = build(CONFIG), build(CONFIG)
    (one, first), (two, second) = await asyncio.gather(*map(started, servers))
    assert one.url != two.url
    assert one.model == "fake"
    async with httpx.AsyncClient(verify=False) as client:
        for url in (one.url, two.url):
            assert (await client.get(f"{url}/readyz")).status_code == 200
        servers[0].stop()
        await asyncio.wait_for(first, 5)
        assert (await client.get(f"{two.url}/readyz")).status_code == 200
    servers[1].stop()
    await asyncio.wait_for(second, 5)


async def test_nothing_is_left_behind() -> None:
    before = {thread.name for thread in threading.enumerate()}
    server = build(CONFIG)
    _, task = await started(server)
    server.stop()
    await asyncio.wait_for(task, 5)
    left = {thread.name for thread in threading.enumerate()} - before
    assert not {name for name in left if not name.startswith("asyncio")}  # the loop's own pool
    assert {task for task in asyncio.all_tasks() if not task.done()} == {asyncio.current_task()}


async def test_stopping_is_harmless_before_and_after() -> None:
    server = build(CONFIG)
    server.stop()
    await asyncio.wait_for(server.serve(), 5)
    server.stop()


async def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"listen\.port={port} is not valid"):
            await build(Config(listen=ListenConfig(port=port))).serve()


async def test_wyoming_is_served_on_a_port_of_its_own(free_port: Callable[[], int]) -> None:
    port = free_port()
    listen = ListenConfig(port=0, wyoming_port=port)
    server = build(Config(listen=listen, recogniser=CONFIG.recogniser))
    _, task = await started(server)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b'{"type":"describe"}\n')
    assert b'"info"' in await asyncio.wait_for(reader.readline(), 5)
    with pytest.raises(ConfigError, match=rf"listen\.wyoming_port={port} is not valid"):
        await build(Config(listen=listen, recogniser=CONFIG.recogniser)).serve()
    server.stop()
    await asyncio.wait_for(task, 5)
    await asyncio.wait_for(reader.read(), 5)  # ended with the server
    writer.close()
    with pytest.raises(OSError, match="refused|failed"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_drain_lets_an_utterance_finish(free_port: Callable[[], int]) -> None:
    port = free_port()
    server = build(
        Config(
            listen=ListenConfig(port=0, wyoming_port=port),
            limits=LimitsConfig(drain_seconds=5.0),
            recogniser=CONFIG.recogniser,
        )
    )
    _, task = await started(server)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    audio = b'"data":{"rate":16000,"width":2,"channels":1}'
    writer.write(b'{"type":"audio-start",' + audio + b'}\n{"type":"ping"}\n')
    assert b'"pong"' in await asyncio.wait_for(reader.readline(), 5)
    server.stop()
    await asyncio.sleep(0.1)
    writer.write(b'{"type":"audio-stop"}\n')
    rest = await asyncio.wait_for(reader.read(), 5)
    assert b'"transcript"' in rest
    assert b'"error"' not in rest
    await asyncio.wait_for(task, 5)
    writer.close()


async def test_a_model_that_cannot_be_loaded_ends_the_server() -> None:
    def load(_: RecogniserConfig) -> FakeRecogniser:
        raise ModelError("no such file")

    with pytest.raises(ModelError, match="no such file"):
        await asyncio.wait_for(build(CONFIG, load).serve(), 5)


async def test_a_model_that_cannot_warm_up_ends_the_server() -> None:
    class Cold(FakeRecogniser):
        def warm_up(self) -> None:
            raise RuntimeError("too cold")

    with pytest.raises(ModelError, match="too cold"):
        await asyncio.wait_for(build(CONFIG, lambda _: Cold()).serve(), 5)


async def test_stopping_while_the_model_loads() -> None:
    loading, go_on = threading.Event(), threading.Event()

    def load(_: RecogniserConfig) -> FakeRecogniser:
        loading.set()
        go_on.wait(5)
        return FakeRecogniser()

    server = build(CONFIG, load)
    task = asyncio.create_task(server.serve(lambda _: pytest.fail("was ready")))
    await asyncio.to_thread(loading.wait, 5)
    server.stop()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait_for(task, 5)


async def test_an_ipv6_address_is_written_with_brackets() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = build(Config(listen=ListenConfig(host="::1", port=0), recogniser=CONFIG.recogniser))
    ready, task = await started(server)
    assert ready.url.startswith("http://[::1]:")
    server.stop()
    await asyncio.wait_for(task, 5)


def test_small_messages_are_sent_at_once() -> None:
    with _listen(ListenConfig(port=0), 7.5) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with client, accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_nobody_reads_does_not_wait_in_the_system_for_ever() -> None:
    with _listen(ListenConfig(port=0), 1.0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            with accepted, contextlib.suppress(BlockingIOError):
                while True:
                    accepted.send(bytes(65_536))
            assert _is_connected(port), "it is closed, and what it sent still waits"
            end = time.monotonic() + 20
            while _is_connected(port) and time.monotonic() < end:
                time.sleep(0.05)
            assert not _is_connected(port)


def _is_connected(port: int) -> bool:
    """Return whether the system keeps the server's end of a connection."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = "0A"
    return any(row[1].endswith(f":{port:04X}") and row[3] != listening for row in rows)


def test_the_fake_is_loaded_by_name_and_without_torch() -> None:
    assert isinstance(load_recogniser(RecogniserConfig(model="fake")), FakeRecogniser)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_process_with_zero(first: signal.Signals) -> None:
    command = [sys.executable, "-c", "from stream_server.cli import main; main()"]
    command += ["serve", "--port", "0", "--model", "fake"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("diffscribe ")
        assert " ready on http://127.0.0.1:" in line
        assert "(model fake, loaded in " in line
        process.send_signal(first)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_sighup_reads_the_keys_again(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    secret = make_key(file, "stage")
    command = [sys.executable, "-c", "from stream_server.cli import main; main()"]
    command += ["serve", "--port", "0", "--model", "fake", "--keys-file", str(file)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().split(" ready on ")[1].split()[0]

        def ask() -> int:
            return httpx.get(f"{url}/metrics", headers={"X-API-Key": secret}).status_code

        try:
            assert ask() == 200
            process.send_signal(signal.SIGHUP)
            lines = iter(process.stderr.readline, "")
            assert next(line for line in lines if "keys read again" in line)
            remove_key(file, "stage")
            process.send_signal(signal.SIGHUP)
            assert '"withdrawn": ["stage"]' in next(line for line in lines if "again" in line)
            assert ask() == 401
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert secret not in errors


async def test_a_wrong_file_of_keys_ends_the_server_at_once(tmp_path: Path) -> None:
    keys = KeysConfig(str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match="can be read"):
        await build(Config(CONFIG.listen, keys, recogniser=CONFIG.recogniser)).serve()


async def test_an_open_server_does_not_go_by_a_strangers_name() -> None:
    for anonymous, status in ((False, 403), (True, 200)):
        listen = ListenConfig(port=0, allow_anonymous=anonymous)
        server = build(Config(listen, recogniser=CONFIG.recogniser))
        ready, task = await started(server)
        async with httpx.AsyncClient() as http:
            answer = await http.get(ready.url, headers={"Host": "rebound.example"})
            assert answer.status_code == status
            assert (await http.get(ready.url)).status_code == 200
        server.stop()
        await asyncio.wait_for(task, 5)


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DIFFSCRIBE_")}
    return kept | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
