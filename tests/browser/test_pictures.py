"""The pictures of the documentation: real speech, the embedded model, a real browser and terminal.

`make pictures` keeps them in client/pictures; look at them before they are committed. The sentences
are read by narrators of children's stories (RoboTutor, CC BY 4.0), none of them used in training.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from stream_server.audio import decode_file

SPEECH = Path(__file__).parents[3] / "shared" / "speech" / "robotutor"
SENTENCES = {
    "ffecae8f0886": "so rob went to the pet shop",
    "fcc71c08eb9a": "ray can play in the tree",
    "ffc2c50f5336": "so the baby elephant followed crow down to the river",
    "fe364a741381": "mom has six cups",
    "fff2bc4189de": "six rats got in box two",
    "ffcdea70318e": "tide means how high the water is",
    "ffb26ba2b803": "jon said can you yank my wig",
}
PAUSE = bytes(2 * 16_000)
"""A second of silence."""
_RUNNING = re.compile(r"\x1b\[1m.*\x1b\[(0;)?2m")
WITH_SERVER = Path(__file__).parents[1] / "with_server.py"

pytestmark = [
    pytest.mark.model,
    pytest.mark.speech,
    pytest.mark.skipif(not SPEECH.exists(), reason="no recordings beside this checkout"),
]


@pytest.fixture(scope="module")
def clip_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browser's microphone hears, instead of the bundled clip."""
    file = tmp_path_factory.mktemp("microphone") / "stories.wav"
    with wave.open(str(file), "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        for name in SENTENCES:
            samples = decode_file((SPEECH / f"{name}.opus").read_bytes()) * 32767
            writer.writeframes(samples.astype("<i2").tobytes() + PAUSE)
    return file


@pytest.fixture
def call_wav(tmp_path: Path) -> Path:
    """The same sentences, in turn on the left and on the right channel."""
    file = tmp_path / "call.wav"
    with wave.open(str(file), "wb") as writer:
        writer.setparams((2, 2, 16_000, 0, "NONE", ""))
        for number, name in enumerate(SENTENCES):
            samples = decode_file((SPEECH / f"{name}.opus").read_bytes()) * 32767
            turn = np.zeros((len(samples) + 16_000, 2), "<i2")
            turn[: len(samples), number % 2] = samples
            writer.writeframes(turn.tobytes())
    return file


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go: DIFFSCRIBE_TEST_PICTURES keeps them."""
    kept = os.environ.get("DIFFSCRIBE_TEST_PICTURES")
    return Path(kept) if kept else tmp_path


@pytest.fixture
async def served() -> AsyncIterator[str]:
    """The address of a server with the embedded model, in a process of its own."""
    # Only the tests know this variable; `cat` waits for an end of input, which is the test's end.
    environ = {name: value for name, value in os.environ.items() if "_TEST_" not in name}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", str(WITH_SERVER), "--", "cat",
        env=environ, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    found = None
    while found is None:
        line = (await process.stdout.readline()).decode()
        assert line, "the server did not start"
        found = re.search(r"ready on (http\S+)", line)
    yield found[1]
    process.stdin.close()
    await process.wait()


def check_words(shown: str, sentences: int) -> None:
    """Most words of the first sentences are there: not all, with today's model or with the next."""
    spoken = {word for text in list(SENTENCES.values())[:sentences] for word in text.split()}
    heard = set(re.findall(r"[a-z]+", shown.lower()))
    assert len(spoken & heard) >= 0.6 * len(spoken), shown


async def test_page_and_overlay(served: str, browse: Callable, pictures: Path) -> None:
    async with browse() as tab:
        await tab.open(served)
        await tab.until("document.querySelector('#server').innerText.includes('ready')")
        await tab.run("document.querySelector('#times').click()")
        await tab.run("document.querySelector('#start').click()")
        overlay = await tab.until("document.querySelector('#overlay').href")
        await tab.until("document.querySelectorAll('#finals li').length >= 5", 60)
        await tab.until("document.querySelector('#running .stable')?.innerText", 20)
        await tab.look(960, 965, is_dark=False, file=pictures / "page.png")
        check_words(await tab.run("document.querySelector('#finals').innerText"), 5)
        await tab.look(390, 844, is_dark=True, file=pictures / "phone.png")
        assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
        # The page goes on in a frame, unseen below its own overlay.
        await tab.run(
            f"const frame = document.createElement('iframe'); frame.src = {overlay!r};"
            "frame.style.cssText = 'position: fixed; inset: 0; width: 100%; height: 100%;"
            " border: 0; z-index: 9; background: linear-gradient(160deg, #34525e, #8a6a4f)';"
            "document.body.append(frame)"
        )
        await tab.until(
            "document.querySelector('iframe').contentDocument"
            ".querySelector('#lines')?.innerText.length > 20",
            30,
        )
        await tab.look(960, 300, is_dark=False, file=pictures / "overlay.png")


async def test_terminal(
    served: str, browse: Callable, call_wav: Path, tmp_path: Path, pictures: Path
) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux here; on Debian: apt-get install tmux")
    program = Path(sys.executable).parent / "stream-client"
    names = "--speaker Ada --speaker Bob"
    command = f"{program} captions {call_wav} --out {tmp_path / 'c.vtt'} --live {names}"
    url = f"ws{served.removeprefix('http')}/v1/stream"

    def tmux(*arguments: str) -> str:
        own = ["tmux", "-f", "/dev/null", "-S", str(tmp_path / "tmux"), *arguments]
        environ = {**os.environ, "LC_ALL": "C.UTF-8"}
        done = subprocess.run(own, capture_output=True, text=True, env=environ, check=True)
        return done.stdout

    await asyncio.to_thread(
        tmux, "new-session", "-d", "-x", "80", "-y", "12", "-e", f"DIFFSCRIBE_URL={url}", command
    )
    try:
        async with asyncio.timeout(60):
            screen = ""
            # Some finals, and below them a line of which some is stable (bold, code 1) and some
            # tentative (dim, code 2).
            while screen.count("00:") < 12 or not _RUNNING.search(screen.rstrip().split("\n")[-1]):
                await asyncio.sleep(0.02)
                screen = await asyncio.to_thread(tmux, "capture-pane", "-e", "-p")
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            await asyncio.to_thread(tmux, "kill-server")
    text = Text.from_ansi(screen.rstrip())
    check_words(text.plain, 5)
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
    console.print(text)
    page = tmp_path / "terminal.html"
    drawn = console.export_svg(title=f"stream-client captions call.wav --out call.vtt {names}")
    page.write_text(f"<!doctype html><body style='margin: 0'>{drawn}", encoding="utf-8")
    async with browse() as tab:
        await tab.open(page.as_uri())
        size = "(({width, height}) => [width, height].map(Math.ceil))"
        drawn = await tab.run(f"{size}(document.querySelector('svg').getBoundingClientRect())")
        await tab.look(*drawn, is_dark=False, file=pictures / "terminal.png")
