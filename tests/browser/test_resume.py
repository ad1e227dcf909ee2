"""A stream in a browser whose connection breaks says what one says that had no break."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import wave
from pathlib import Path
from typing import Any

FINALS = "document.querySelectorAll('#finals li').length"

STREAM = """
(async () => {
  const { connect } = await import("/web/client.js");
  const opened = [];
  class Noted extends WebSocket {
    constructor(...rest) {
      super(...rest);
      opened.push(this);
    }
  }
  const audio = Uint8Array.from(atob(AUDIO), (each) => each.charCodeAt(0));
  const reconnect = { firstDelayMs: 1, maxDelayMs: 50, attempts: 200 };
  const start = { words: true, ...START };
  const stream = await connect("/v1/stream", { start, WebSocket: Noted, reconnect });
  const said = { finals: [], notices: [], done: null };
  const reading = (async () => {
    for await (const message of stream) {
      const { type, channel, start, end, text, words, samples } = message;
      if (type === "final") said.finals.push([channel, start, end, text, words]);
      if (type === "notice") said.notices.push(message.code);
      if (type === "done") said.done = samples;
    }
  })();
  for (let at = 0, count = 0; at < audio.length; at += 6400, count += 1) {
    await stream.send(audio.subarray(at, at + 6400));
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
    if (!BREAKS.includes(count)) continue;
    while (opened.at(-1).readyState !== WebSocket.OPEN) {  // it has mended the one before
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    opened.at(-1).close();
  }
  stream.stop();
  await reading;
  said.finals.sort((one, other) => one[0] - other[0] || one[1] - other[1]);
  return said;
})()
"""


def script(audio: bytes, pause: int, breaks: list[int], start: dict[str, Any]) -> str:
    values = {
        "AUDIO": base64.b64encode(audio).decode(), "PAUSE": pause, "BREAKS": breaks, "START": start,
    }  # fmt: skip
    text = STREAM
    for name, value in values.items():
        text = text.replace(name, json.dumps(value))
    return text


def clip(path: Path) -> bytes:
    with wave.open(str(path)) as reader:
        return reader.readframes(reader.getnframes()) * 2


async def test_broken_sockets_change_no_word(running, browse, clip_wav: Path) -> None:
    with running() as server:
        async with browse() as tab:
            await tab.open(server.url)
            whole = await tab.run(script(clip(clip_wav), 2, [], {}))
            broken = await tab.run(script(clip(clip_wav), 2, [3, 20, 21, 50, 70], {}))
    assert whole["notices"] == []
    assert len(whole["finals"]) > 4
    assert broken["notices"].count("reconnected") >= 4
    assert broken["finals"] == whole["finals"]
    assert broken["done"] == whole["done"] == len(clip(clip_wav)) // 2


async def test_nor_with_two_channels(running, browse, clip_wav: Path) -> None:
    mono = memoryview(clip(clip_wav)).cast("h")
    late = 16000 * 2  # samples that the second channel is behind
    stereo = memoryview(bytearray(4 * (len(mono) + late))).cast("h")
    stereo[0 : 2 * len(mono) : 2], stereo[2 * late + 1 :: 2] = mono, mono
    start = {"channels": 2, "channel_mode": "split"}
    with running() as server:
        async with browse() as tab:
            await tab.open(server.url)
            whole = await tab.run(script(bytes(stereo), 2, [], start))
            broken = await tab.run(script(bytes(stereo), 2, [10, 60, 100, 130], start))
    assert broken["notices"].count("reconnected") >= 3
    assert {final[0] for final in whole["finals"]} == {0, 1}
    assert broken["finals"] == whole["finals"]


async def test_the_page_goes_on_when_its_server_is_started_again(running, browse) -> None:
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        server = first.enter_context(running())
        async with browse() as tab:
            await tab.open(server.url)
            await tab.run("document.querySelector('#start').click()")
            await tab.until(f"{FINALS} >= 1", 20)
            viewers = await tab.run("document.querySelector('#overlay').href")
            await asyncio.to_thread(first.close)
            await asyncio.to_thread(second.enter_context, running(port=server.port))
            said = "document.querySelector('#status').innerText"
            await tab.until(f"{said}.includes('nothing was lost')", 20)
            assert await tab.run("document.querySelector('#overlay').href") != viewers
            count = await tab.run(FINALS)
            await tab.until(f"{FINALS} > {count}", 20)
            await tab.run("document.querySelector('[data-format=srt]').click()")
            await tab.until("document.querySelector('#problem').innerText.includes('JSON')")
            await tab.run("document.querySelector('#start').click()")
            await tab.until(f"{said} === 'Done.'")
