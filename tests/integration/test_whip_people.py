"""Publishers of every kind bring people's words to the embedded model, and vanish without harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pysubs2
import pytest
from websockets.asyncio.client import connect

from tests.integration.webrtc import (
    LIMITS,
    cut,
    follow,
    inside,
    offer_with_channel,
    publishing,
    session_of,
)
from tests.recording import RATE

pytestmark = [pytest.mark.model, pytest.mark.timeout(240)]

DEBIAN_PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("gstreamer_whip.py")
NO_GSTREAMER = "no GStreamer here; .ci/run has the Debian packages"
ROUTER = """
void *g_object_new(unsigned long type, const char *property, ...);
unsigned long gupnp_simple_igd_get_type(void) { return 80; /* of every object */ }
void *gupnp_simple_igd_thread_new(void) { return g_object_new(80, 0); }
void gupnp_simple_igd_add_port(void) {}
void gupnp_simple_igd_remove_port_local(void) {}
"""
"""Stands for the library that asks routers for open ports. In Debian 12 it brings libsoup 3 into a
whip-client that has libsoup 2, and each of the two ends a process that holds both."""


@pytest.fixture(scope="module")
def server(running: Any, load_embedded: Any) -> Iterator[Any]:
    """One server for all of these."""
    with running(LIMITS, load=load_embedded) as server:
        yield server


@pytest.fixture(scope="module")
def recording(recording: Any) -> Any:
    """The beginning of it: everybody here takes as long as it does."""
    return recording.first(4)


@pytest.fixture(scope="module")
def file(recording: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording as publishers play it."""
    return Path(recording.write(tmp_path_factory.mktemp("people") / "people.opus"))


@pytest.fixture(scope="module")
def seconds(recording: Any) -> float:
    """How long it is, and a little more for the way."""
    return len(recording.samples) / RATE + 1.5


def finals(events: list[tuple[str, Any]]) -> list[str]:
    """Return what an ended session said."""
    messages = [message for _, message in events]
    assert messages[-1]["type"] == "done"
    return [message["text"] for message in messages if message["type"] == "final"]


async def watch(server: Any, session: str) -> list[str]:
    """Return what a viewer over a WebSocket is told, up to the end."""
    url = f"{server.url.replace('http', 'ws', 1)}/v1/sessions/{session}/watch"
    async with connect(url) as socket:
        messages = [json.loads(text) async for text in socket]
    assert messages[-1]["type"] == "done"
    return [message["text"] for message in messages if message["type"] == "final"]


async def test_viewers_of_what_aiortc_sends_by_whip(server, recording, file, seconds) -> None:
    async with publishing(server, "/whip/aiortc?language=en", file) as (_, http, answer):
        following = asyncio.create_task(follow(http, session_of(answer)))
        watching = asyncio.create_task(watch(server, "aiortc"))
        await asyncio.sleep(seconds)
        vtt = (await http.get("/v1/sessions/aiortc/captions.vtt")).text
        srt = (await http.get("/v1/sessions/aiortc/captions.srt")).text
        assert (await http.delete(answer.headers["Location"])).status_code == 200
        told = finals(await following)
    recording.check(told)
    assert await watching == told
    for text, kind in ((vtt, "vtt"), (srt, "srt")):
        lines = pysubs2.SSAFile.from_string(text, format_=kind)
        recording.check([line.plaintext for line in lines])
        assert lines[0].start / 1000 == pytest.approx(recording.starts[0], abs=0.8)


async def test_aiortc_by_an_exchange_of_json(server, recording, file, seconds) -> None:
    heard = await offer_with_channel(server, file, seconds, language="en")
    recording.check([message["text"] for message in heard if message["type"] == "final"])


# --- GStreamer ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def process(*command: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program of Debian, away from this environment, for the length of a block."""
    started = await asyncio.create_subprocess_exec(
        *command, env={"LANG": "C", **variables},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


async def webrtcbin(server: Any, name: str, file: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command of our script around GStreamer's webrtcbin."""
    asked = 'import gi; gi.require_version("GstWebRTC", "1.0")'
    async with process(DEBIAN_PYTHON, "-c", asked) as asking:
        if await asking.wait():
            pytest.skip(NO_GSTREAMER)
    url = f"{server.url}/whip/{name}"
    return [DEBIAN_PYTHON, str(SCRIPT), str(file), url, "300"], {}


async def whip_client(
    server: Any, name: str, file: Path, folder: Path, *options: str
) -> tuple[list[str], dict[str, str]]:
    """Return the command of Debian's whip-client; ``folder`` is for what it needs beside."""
    program, compiler = shutil.which("whip-client"), shutil.which("gcc")
    if program is None or compiler is None:
        pytest.skip(NO_GSTREAMER)
    library = "libgupnp-igd-1.0.so.4"
    (folder / "router.c").write_text(ROUTER)
    flags = ("-shared", "-nostdlib", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library))
    async with process(compiler, *flags, str(folder / "router.c"), PATH="/usr/bin") as compiling:
        assert await compiling.wait() == 0
    audio = (
        f"filesrc location={file} ! decodebin ! audioconvert ! audioresample ! clocksync ! "
        "opusenc ! rtpopuspay pt=111 ! "
        "application/x-rtp,media=audio,encoding-name=OPUS,payload=111"
    )
    command = [program, *options, "--url", f"{server.url}/whip/{name}", "--audio", audio]
    return command, {"LD_LIBRARY_PATH": str(folder)}


async def appears(http: httpx.AsyncClient, name: str) -> None:
    """Wait until a session is there."""
    async with asyncio.timeout(20):
        path = f"/v1/sessions/{name}/captions.srt"
        while (await http.get(path)).status_code == 404:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("kind", ["webrtcbin", "whip-client", "whip-client, no trickle"])
async def test_gstreamer(server, recording, file, seconds, tmp_path, kind: str) -> None:
    """Its certificates are of RSA; whip-client says goodbye when it is interrupted."""
    name = kind.replace(", ", "-").replace(" ", "-")
    options = ("--no-trickle",) if "no trickle" in kind else ()
    if kind == "webrtcbin":
        command, variables = await webrtcbin(server, name, file)
    else:
        command, variables = await whip_client(server, name, file, tmp_path, *options)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
        process(*command, **variables) as publisher,
    ):
        await appears(http, name)
        following = asyncio.create_task(follow(http, name))
        await asyncio.sleep(seconds - 1)
        with contextlib.suppress(ProcessLookupError):  # the server may have missed audio first
            publisher.send_signal(signal.SIGINT)
        async with asyncio.timeout(15):
            events = await following
    recording.check(finals(events))


# --- those that vanish ----------------------------------------------------------------------------

VANISHES_AFTER = 2.0
"""Seconds: in the middle of the first utterance."""


async def is_reaped(http: httpx.AsyncClient, name: str, recording: Any) -> None:
    """Check that a session whose publisher vanished ended and said what was said until then."""
    async with asyncio.timeout(15):
        heard = " ".join(finals(await follow(http, name))).split()
        while await inside(http):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    said = " ".join(recording.said).split()
    assert heard[:1] == said[:1]
    assert len(heard) < len(said) / 2


async def test_aiortc_that_vanishes(server, recording, file) -> None:
    async with publishing(server, "/whip/gone", file) as (connection, http, answer):
        await asyncio.sleep(VANISHES_AFTER)
        cut(connection)
        await is_reaped(http, session_of(answer), recording)
        assert (await http.delete(answer.headers["Location"])).status_code == 404


async def test_gstreamer_that_is_killed(server, recording, file, tmp_path) -> None:
    command, variables = await whip_client(server, "killed", file, tmp_path)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
        process(*command, **variables) as publisher,
    ):
        await appears(http, "killed")
        await asyncio.sleep(VANISHES_AFTER)
        publisher.kill()
        await is_reaped(http, "killed", recording)
