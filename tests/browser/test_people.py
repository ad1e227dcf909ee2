"""Chromium's microphone plays people: captions on the page, and pages elsewhere that send them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from stream_server.config import WebConfig
from tests.environments import INSTALL_SECONDS
from tests.integration.webrtc import follow, inside
from tests.recording import RATE

pytestmark = [pytest.mark.model, pytest.mark.timeout(INSTALL_SECONDS + 120)]

HERE = Path(__file__).parent
PACKAGES = HERE.parent / "integration" / "clients" / "package.json"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
FINALS = "[...document.querySelectorAll('#finals li')].map((each) => each.lastChild.textContent)"
MARGIN_SECONDS = 8.0
"""For the browser to start its microphone, and for the last final."""


@pytest.fixture(scope="module")
def recording(recording: Any) -> Any:
    """The beginning of it: everybody here takes as long as it does."""
    return recording.first(4)


@pytest.fixture(scope="module")
def microphone(recording: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording as the browser wants it."""
    return Path(recording.write(tmp_path_factory.mktemp("people") / "people.wav"))


@pytest.fixture(scope="module")
def seconds(recording: Any) -> float:
    """How long the recording is."""
    return float(len(recording.samples) / RATE)


@pytest.mark.parametrize("transport", ["websocket", "webrtc"])
async def test_captions(
    running, browse, load_embedded, recording, microphone, seconds, tmp_path, transport: str
) -> None:
    """Set DIFFSCRIBE_TEST_PICTURES to a folder to keep the pictures."""
    kept = os.environ.get("DIFFSCRIBE_TEST_PICTURES")
    pictures = Path(kept) if kept else tmp_path
    with running(load=load_embedded) as server:
        async with browse(microphone=microphone) as tab:
            await tab.open(server.url)
            await tab.until("document.querySelector('#server').innerText.includes('ready')")
            await tab.run(f"document.querySelector('[name=transport][value={transport}]').click()")
            await tab.run("document.querySelector('#start').click()")
            began = time.monotonic()
            await tab.until(f"{FINALS}.length >= 1 && document.querySelector('#running .stable')"
                            "?.innerText", seconds + MARGIN_SECONDS)  # fmt: skip
            for size, (width, height) in SIZES.items():
                for shade in ("light", "dark"):
                    file = pictures / f"people-{transport}-{size}-{shade}.png"
                    await tab.look(width, height, is_dark=shade == "dark", file=file)
            await asyncio.sleep(began + seconds + 2 - time.monotonic())
            await tab.run("document.querySelector('#start').click()")
            await tab.until("document.querySelector('#status').innerText === 'Done.'")
            recording.check(await tab.run(FINALS))


# --- pages elsewhere ------------------------------------------------------------------------------


@pytest.fixture
def page(environment: Any, recording: Any, tmp_path: Path) -> Iterator[str]:
    """Pages on another port, with what they need beside them; their origin."""
    folder = tmp_path / "page"
    folder.mkdir()
    shutil.copy(environment(PACKAGES) / "node_modules" / "whip-whep" / "whip.js", folder)
    for name in ("publish.html", "stream.html"):
        shutil.copy(HERE / name, folder)
    (folder / "people.pcm").write_bytes(recording.samples.astype("<i2").tobytes())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


@pytest.mark.parametrize("transport", ["websocket", "webrtc"])
async def test_the_library_elsewhere(
    running, browse, load_embedded, recording, microphone, seconds, page, transport: str
) -> None:
    web = WebConfig(allow_origin=(page,))
    with running(keys=("sesame",), web=web, load=load_embedded) as server:
        async with browse(microphone=microphone) as tab:
            await tab.open(f"{page}/stream.html?host=127.0.0.1:{server.port}")
            await tab.until("globalThis.isLoaded")
            milliseconds = round(1000 * (seconds + 2))
            began = "stream('sesame')" if transport == "websocket" else (
                f"talk('sesame', {milliseconds})"
            )  # fmt: skip
            await tab.run(f"{began}.then((texts) => {{ globalThis.heard = texts; }}); null")
            recording.check(await tab.until("globalThis.heard", seconds + 30))


@contextlib.asynccontextmanager
async def published(running: Any, browse: Any, load_embedded: Any, microphone: Path, page: str):  # type: ignore[no-untyped-def]
    """Publish from the page; gives the tab, an HTTP client and the session's name."""
    web = WebConfig(allow_origin=(page,))
    with running(keys=("sesame",), web=web, load=load_embedded) as server:
        headers = {"Authorization": "Bearer sesame"}
        async with (
            browse(microphone=microphone) as tab,
            httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client,
        ):
            await tab.open(f"{page}/publish.html")
            await tab.until("globalThis.isLoaded")
            await tab.run(f"publish('{server.url}/whip/stage', 'sesame')")
            await tab.until("peer.connectionState === 'connected'")
            yield tab, client


async def test_whip(running, browse, load_embedded, recording, microphone, seconds, page) -> None:
    async with published(running, browse, load_embedded, microphone, page) as (tab, client):
        following = asyncio.create_task(follow(client, "stage"))
        await asyncio.sleep(seconds + 2)
        await tab.run("client.stop()")
        async with asyncio.timeout(15):
            messages = [message for _, message in await following]
    assert messages[-1]["type"] == "done"
    recording.check([each["text"] for each in messages if each["type"] == "final"])


async def test_whip_of_a_browser_that_is_killed(
    running, browse, load_embedded, recording, microphone, page
) -> None:
    async with published(running, browse, load_embedded, microphone, page) as (tab, client):
        await asyncio.sleep(2.0)  # in the middle of the first utterance
        tab.vanish()
        async with asyncio.timeout(20):
            messages = [message for _, message in await follow(client, "stage")]
            while await inside(client):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert messages[-1]["type"] == "done"
    texts = [each["text"] for each in messages if each["type"] == "final"]
    heard, said = " ".join(texts).split(), " ".join(recording.said).split()
    assert heard[:1] == said[:1]
    assert len(heard) < len(said) / 2
