"""WebRTC through a TURN server alone, with coturn as docker/compose.yaml starts it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_server.config import WebConfig

COMPOSE = Path(__file__).parents[2] / "docker" / "compose.yaml"
SECRET = "s3cret"
RELAYED_ONLY = """
    const Plain = RTCPeerConnection;
    globalThis.peers = [];
    globalThis.RTCPeerConnection = class extends Plain {
        constructor(options) {
            super({ ...options, iceTransportPolicy: "relay" });
            globalThis.peers.push(this);
        }
    };
"""
PAIR = """(async () => {
    const found = [...(await globalThis.peers[0].getStats()).values()];
    const pair = found.find((each) => each.type === "candidate-pair" && each.nominated);
    return found.find((each) => each.id === pair.localCandidateId).candidateType;
})()"""


@pytest.fixture
async def turn(
    tmp_path: Path, own_address: str, free_port: Callable[[], int]
) -> AsyncIterator[str]:
    """What `--ice-server` says for a coturn with the flags of compose.yaml."""
    if shutil.which("turnserver") is None:
        pytest.skip("coturn is not installed; on Debian: apt-get install coturn")
    service = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["turn"]
    flags = [flag.replace("${TURN_SECRET:-}", SECRET) for flag in service["command"]]
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        "turnserver", *flags, f"--listening-port={port}", "--log-file=stdout",
        f"--pidfile={tmp_path / 'pid'}", f"--userdb={tmp_path / 'db'}", cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(own_address, port)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.05)
    assert process.returncode is None, "coturn took the flags"
    yield f"turn:diffscribe:{SECRET}@{own_address}:{port}"
    process.terminate()
    await process.wait()


async def begin(tab: Any, url: str) -> None:
    """Start to speak by WebRTC through relays alone."""
    await tab.call("Page.addScriptToEvaluateOnNewDocument", source=RELAYED_ONLY)
    await tab.open(url)
    await tab.until("document.querySelector('#server').innerText.includes('ready')")
    await tab.run("document.querySelector('[name=transport][value=webrtc]').click()")
    await tab.run("document.querySelector('#start').click()")


async def test_captions_come_through_the_relay(running: Callable, browse: Callable, turn: str):
    with running(web=WebConfig(ice_server=(turn,))) as server:
        async with browse() as tab:
            await begin(tab, server.url)
            await tab.until("document.querySelectorAll('#finals li').length >= 1", 30)
            assert await tab.run(PAIR) == "relay"
            await tab.run("document.querySelector('#start').click()")
            await tab.until("document.querySelector('#status').innerText === 'Done.'")


async def test_a_wrong_password_relays_nothing(running: Callable, browse: Callable, turn: str):
    with running(web=WebConfig(ice_server=(turn.replace(SECRET, "wrong"),))) as server:
        async with browse() as tab:
            await begin(tab, server.url)
            await asyncio.sleep(6)
            assert await tab.run("document.querySelectorAll('#finals li').length") == 0
