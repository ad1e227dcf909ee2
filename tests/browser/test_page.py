"""The caption page and the overlay in Chromium, with a microphone that plays the bundled clip."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stream_server.config import WebConfig

CLIP = Path(__file__).parents[1] / "data" / "digits.opus"
FINALS = "document.querySelectorAll('#finals li').length"
PROBLEM = "document.querySelector('#problem').innerText"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def choose(name: str, value: str) -> str:
    return f"document.querySelector('[name={name}][value={value}]').click()"


@pytest.mark.parametrize("transport", ["websocket", "webrtc"])
async def test_captions_appear_from_the_microphone(running, browse, transport: str) -> None:
    with running() as server:
        async with browse() as tab:
            await tab.open(server.url)
            await tab.until("document.querySelector('#server').innerText.includes('fake · ready')")
            assert await tab.run("document.querySelector('#language').options.length") == 2
            await tab.run(choose("transport", transport))
            await tab.run("document.querySelector('#start').click()")
            await tab.until("document.querySelector('#running .tentative')?.innerText")
            await tab.until(f"{FINALS} >= 2", 20)
            assert "ms" in await tab.run("document.querySelector('#lag').innerText")
            delay = await tab.run("parseInt(document.querySelector('#final-lag').innerText)")
            assert 300 <= delay < 3000, "at least the pause that proves the end"
            assert await tab.run("document.querySelector('#canvas-step').innerText")
            assert await tab.run("document.querySelector('#level').value") >= 0
            await tab.run("document.querySelector('#times').click()")
            assert await tab.run("document.querySelectorAll('#finals rt').length") > 3
            await tab.run("document.querySelector('#start').click()")
            await tab.until("document.querySelector('#status').innerText === 'Done.'")
            assert await tab.run("document.querySelector('#problem').hidden")
            assert await tab.run("document.querySelector('#start').innerText") == "Start"


@pytest.mark.parametrize("transport", ["websocket", "webrtc"])
async def test_a_file_is_played_to_its_end(running, browse, transport: str) -> None:
    with running() as server:
        async with browse() as tab:
            await tab.open(server.url)
            await tab.run(choose("source", "file"))
            await tab.run(choose("transport", transport))
            await tab.run("document.querySelector('#start').click()")
            await tab.until(f"{PROBLEM}.includes('Choose a file')")
            await put_file(tab, CLIP)
            await tab.run("document.querySelector('#start').click()")
            await tab.until("document.querySelector('#status').innerText === 'Done.'", 30)
            assert await tab.run(FINALS) == 3
            for kind, mark in (("srt", "-->"), ("vtt", "WEBVTT"), ("json", '"words"')):
                assert mark in await saved(tab, kind)
            captions = json.loads(await saved(tab, "json"))
            assert len(captions) == 3
            assert captions[0]["words"][0]["start"] == pytest.approx(0.4, abs=0.5)
            await tab.run("document.querySelector('#clear').click()")
            assert await tab.run(FINALS) == 0


async def put_file(tab, file: Path) -> None:
    document = await tab.call("DOM.getDocument")
    node = await tab.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#file")
    await tab.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node["nodeId"])


async def saved(tab, kind: str) -> str:
    """What a download button saves."""
    await tab.run(
        "URL.createObjectURL = (blob) => { globalThis.saved = blob.text(); return 'data:,'; };"
        "HTMLAnchorElement.prototype.click = () => {};"
        f"globalThis.saved = null; document.querySelector('[data-format={kind}]').click()"
    )
    await tab.until("globalThis.saved !== null")
    return str(await tab.run("globalThis.saved"))


async def test_the_overlay_waits_for_its_session_and_shows_it(running, browse) -> None:
    with running(keys=("sesame",)) as server:
        async with browse() as tab:
            await tab.open(server.url)
            await tab.until("document.querySelector('#more').open")
            await tab.run("document.querySelector('#start').click()")
            await tab.until(f"{PROBLEM}.includes('API key')")
            await tab.run(
                "const key = document.querySelector('#key'); key.value = 'sesame';"
                "key.dispatchEvent(new Event('change'))"
            )
            await tab.until("document.querySelector('#server').innerText.includes('ready')")
            assert await tab.run("sessionStorage.getItem('key')") == "sesame"
            await tab.run("document.querySelector('#start').click()")
            address = await tab.until("document.querySelector('#overlay').href")
            assert address.endswith("#key=sesame")
            await tab.run(
                "const frame = document.createElement('iframe'); frame.src = "
                "document.querySelector('#overlay').href; document.body.append(frame)"
            )
            await tab.until(
                "document.querySelector('iframe').contentDocument"
                ".querySelector('#lines')?.innerText.length > 10",
                20,
            )
            await tab.open(address)
            await tab.until("document.querySelector('#lines').innerText.length > 10")
            assert not await tab.run("document.querySelector('#note').innerText")


async def test_a_forbidden_microphone_is_explained(running, browse) -> None:
    with running() as server:
        async with browse(allows_microphone=False) as tab:
            await tab.open(server.url)
            await tab.run("document.querySelector('#start').click()")
            await tab.until(f"{PROBLEM}.includes('not allowed')")
            assert "Allow it in the browser" in await tab.run(
                "document.querySelector('#problem').innerText"
            )
            assert not await tab.run("document.querySelector('#problem').hidden")


async def test_without_https_elsewhere_the_page_says_what_to_do(
    running, browse, own_address
) -> None:
    with running(host="0.0.0.0") as server:
        async with browse() as tab:
            await tab.open(f"http://{own_address}:{server.port}/")
            await tab.until(f"{PROBLEM}.includes('HTTPS')")
            await put_file(tab, CLIP)
            await tab.run("document.querySelector('#start').click()")
            await tab.until(f"{FINALS} >= 1", 20)


async def test_over_self_signed_https(running, browse) -> None:
    with running(web=WebConfig(tls_self_signed=True)) as server:
        assert server.url.startswith("https://")
        async with browse() as tab:
            await tab.open(server.url)
            await tab.run("document.querySelector('#start').click()")
            await tab.until(f"{FINALS} >= 1", 20)


async def test_it_can_be_used_by_keyboard_and_heard(running, browse) -> None:
    with running() as server:
        async with browse() as tab:
            await tab.open(server.url)
            await tab.until("document.querySelector('#server').innerText.includes('ready')")
            reached = []
            for _ in range(14):
                for kind in ("rawKeyDown", "keyUp"):
                    await tab.call(
                        "Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9
                    )
                reached.append(
                    await tab.run("document.activeElement.id || document.activeElement.name")
                )
            wanted = {"theme", "source", "transport", "language", "start", "times", "captions"}
            assert wanted <= set(reached)
            tree = await tab.call("Accessibility.getFullAXTree")
            unnamed = [
                node["role"]["value"]
                for node in tree["nodes"]
                if node.get("role", {}).get("value") in CONTROLS
                and not node.get("name", {}).get("value")
                and not node["ignored"]
            ]
            assert unnamed == []
            assert await tab.run("document.querySelector('#finals').ariaLive") == "polite"
            assert await tab.run("document.querySelector('#running').ariaHidden") == "true"


CONTROLS = {"button", "checkbox", "radio", "combobox", "slider", "textbox", "link", "meter", "list"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
async def test_it_fits_every_screen(running, browse, tmp_path, size: str, is_dark: bool) -> None:
    """Set DIFFSCRIBE_TEST_PICTURES to a folder to keep the pictures."""
    kept = os.environ.get("DIFFSCRIBE_TEST_PICTURES")
    pictures = Path(kept) if kept else tmp_path
    width, height = SIZES[size]
    with running() as server:
        async with browse() as tab:
            shade = "dark" if is_dark else "light"
            await tab.open(server.url)
            await tab.run("document.querySelector('#start').click()")
            await tab.until(f"{FINALS} >= 2", 20)
            await tab.until("document.querySelector('#running .stable')?.innerText", 20)
            picture = pictures / f"{size}-{shade}.png"
            await tab.look(width, height, is_dark=is_dark, file=picture)
            assert picture.stat().st_size > 5000
            assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
            ground = await tab.run("getComputedStyle(document.body).backgroundColor")
            assert (max(map(int, ground[4:-1].split(","))) < 100) == is_dark
