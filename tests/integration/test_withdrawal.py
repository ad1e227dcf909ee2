"""A key that is withdrawn while its sessions run: they are closed, and those of others go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stream_server.config import KeysConfig
from stream_server.keyring import make_key, remove_key

RAW = {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16000}
APIS: list[tuple[str, list[dict[str, Any]], int]] = [
    # path, what a client says first, close code of "no right key"
    ("/v1/stream", [{"type": "start"}], 1008),
    ("/v1/realtime", [], 1008),
    ("/v1/listen?encoding=linear16&sample_rate=16000", [], 1008),
    ("/v2/listen?encoding=linear16&sample_rate=16000", [], 1008),
    ("/v3/ws?sample_rate=16000", [], 1008),
    ("/v2", [{"message": "StartRecognition", "audio_format": RAW}], 4001),
    ("/vosk", [], 1008),
]


@pytest.fixture(scope="module")
def guarded(running, tmp_path_factory) -> Iterator[tuple[Any, Path]]:
    """A server with a file of keys."""
    file: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    make_key(file, "first")
    with running(more_keys=KeysConfig(str(file))) as server:
        yield server, file


async def until_let_in(server: Any, key: str) -> None:
    async with asyncio.timeout(5), httpx.AsyncClient(base_url=server.url) as http:
        while (await http.get("/metrics", headers={"X-API-Key": key})).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("path", "first", "code"), APIS, ids=[path for path, *_ in APIS])
async def test_the_sessions_of_a_withdrawn_key_are_closed_in_each_api(
    guarded, talk, voice, path: str, first: list[dict[str, Any]], code: int
) -> None:
    server, file = guarded
    gone, stays = make_key(file, "gone"), make_key(file, "stays")
    await until_let_in(server, stays)
    url = server.url.replace("http", "ws", 1) + path
    try:
        async with (
            talk(server, {}, additional_headers={"X-API-Key": stays}) as other,
            connect(url, additional_headers={"X-API-Key": gone}) as socket,
        ):
            for message in first:
                await socket.send(json.dumps(message))
            await socket.send(bytes(3200))
            await asyncio.sleep(0.05)
            remove_key(file, "gone")
            with contextlib.suppress(ConnectionClosed):
                async with asyncio.timeout(5):
                    async for _ in socket:
                        pass
            assert socket.close_code == code
            with pytest.raises(InvalidStatus) as caught:
                async with connect(url, additional_headers={"X-API-Key": gone}):
                    pass
            assert caught.value.response.status_code == 401
            await other.say(voice(), {"type": "stop"})
            heard, close = await other.hear_all()
            assert close == 1000
            assert [bool(each["text"]) for each in heard if each["type"] == "final"] == [True]
    finally:
        remove_key(file, "stays")
