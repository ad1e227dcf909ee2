"""Chromium without a window, driven over its own protocol (CDP): no driver, no extra package."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import threading
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from stream_server.audio import decode_file
from stream_server.config import Config, LimitsConfig, ListenConfig, RecogniserConfig, WebConfig
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import Recogniser
from stream_server.server import Server, build

CLIP = Path(__file__).parents[1] / "data" / "digits.opus"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--hide-scrollbars", "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream", "--ignore-certificate-errors", "about:blank",
)  # fmt: skip

FORBIDS = "--deny-permission-prompts"


@contextlib.contextmanager
def _running(
    keys: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    web: WebConfig | None = None,
    load: Callable[[RecogniserConfig], Recogniser] = lambda _: FakeRecogniser(step_seconds=0.004),
    port: int = 0,
) -> Iterator[Server]:
    config = Config(
        listen=ListenConfig(
            host=host, port=port, api_key=keys, allow_anonymous=not host.startswith("127.")
        ),
        web=web or WebConfig(),
        limits=LimitsConfig(media_timeout_ms=4000),
        recogniser=RecogniserConfig(model="fake"),
    )
    server = build(config, load)
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(lambda _: ready.set())))
    thread.start()
    try:
        assert ready.wait(110), "the server did not get ready"
        yield server
    finally:
        server.stop()
        server.stop()
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def running() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Starts a server in a thread for the length of a block."""
    return _running


class Tab:
    """One page of a browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self.problems: list[str] = []
        """Exceptions and errors that the page left unhandled."""
        self.vanish: Callable[[], None] = lambda: None
        """Kills the browser."""

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):  # a browser that is killed says no goodbye
            await self._read_all()

    async def _read_all(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if not answer.done():
                    answer.set_result(message)
            elif message["method"] == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.problems.append(str(details.get("exception", details)))
            elif message["method"] == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["source"] in ("security", "javascript", "violation"):
                    self.problems.append(entry["text"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Run a command of the protocol."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(20):
            message = await answer
        assert "error" not in message, (method, message)
        result: dict[str, Any] = message["result"]
        return result

    async def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def run(self, expression: str) -> Any:
        """Return the value of an expression in the page, awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 15) -> Any:
        """Wait until an expression is true and return its value."""
        end = asyncio.get_running_loop().time() + seconds
        while not (value := await self.run(expression)):
            if asyncio.get_running_loop().time() > end:
                shown = await self.run("document.body.innerText")
                raise AssertionError(
                    f"not within {seconds} s: {expression}\n{shown}\n{self.problems}"
                )
            await asyncio.sleep(0.05)
        return value

    async def look(self, width: int, height: int, *, is_dark: bool, file: Path) -> None:
        """Take a picture of the page as on another screen."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await asyncio.sleep(0.4)
        picture = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(file.write_bytes, base64.b64decode(picture["data"]))


@pytest.fixture(scope="session")
def own_address() -> str:
    """An address of this machine that is not its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        return str(probe.getsockname()[0])


@pytest.fixture(scope="session")
def clip_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled clip as the microphone plays it: WAV, with a pause before it comes again."""
    file = tmp_path_factory.mktemp("microphone") / "digits.wav"
    samples = (decode_file(CLIP.read_bytes()) * 32767).astype("<i2")
    with wave.open(str(file), "wb") as writer:
        writer.setparams((1, 2, 16000, 0, "NONE", ""))
        writer.writeframes(samples.tobytes() + bytes(32000))
    return file


@pytest.fixture
def browse(
    clip_wav: Path, tmp_path: Path
) -> Callable[..., contextlib.AbstractAsyncContextManager[Tab]]:
    """Starts a browser with a microphone that plays the clip, and gives its one tab."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium")

    @contextlib.asynccontextmanager
    async def start(
        *, allows_microphone: bool = True, microphone: Path | None = None
    ) -> AsyncIterator[Tab]:
        profile = tmp_path / "profile"
        prompt = "--use-fake-ui-for-media-stream" if allows_microphone else FORBIDS
        # Once, where a test has its own file; the clip again and again.
        plays = f"{microphone}%noloop" if microphone else str(clip_wav)
        own = (prompt, f"--use-file-for-fake-audio-capture={plays}")
        process = await asyncio.create_subprocess_exec(
            program, *own, f"--user-data-dir={profile}", *FLAGS,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with _open_tab(profile) as tab:
                tab.vanish = process.kill
                yield tab
                assert tab.problems == []
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()

    return start


@contextlib.asynccontextmanager
async def _open_tab(profile: Path) -> AsyncIterator[Tab]:
    port_file = profile / "DevToolsActivePort"
    async with asyncio.timeout(30):
        while not (port_file.exists() and port_file.read_text().strip()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    port = port_file.read_text().split()[0]
    async with httpx.AsyncClient() as http:
        targets = (await http.get(f"http://127.0.0.1:{port}/json")).json()
    (target,) = [each for each in targets if each["type"] == "page"]
    async with connect(target["webSocketDebuggerUrl"], max_size=None, compression=None) as socket:
        tab = Tab(socket)
        for domain in ("Page", "Runtime", "Log"):
            await tab.call(f"{domain}.enable")
        yield tab
        tab._reader.cancel()
