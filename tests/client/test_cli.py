from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import wave
from importlib.util import find_spec

import numpy as np
import pysubs2
import pytest
import webvtt
from typer.testing import CliRunner

from stream_client import cli
from stream_protocol.codec import decode_server
from stream_protocol.messages import Done, Error, Final


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.arange(9600, dtype="<i2").tobytes())
    return path


async def run(*args, env=None, interrupt=None):
    """Run the program in a process of its own; return status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from stream_client.cli import main; main()",
        *map(str, args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "", "NO_COLOR": "1", **(env or {})},
    )
    if interrupt is not None:
        await interrupt.wait()
        process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_file_as_text(serving, speaking_server, clip):
    async with serving(speaking_server()) as server:
        result = await run("file", clip, "--url", server.url, "--pace", "max")
    assert result == (0, "0-4800\n4800-9600\n", "")


async def test_options_reach_the_server(serving, speaking_server, clip):
    async with serving(speaking_server()) as server:
        options = ["--language", "de", "--words", "--steps", "4", "--partial-interval-ms", "250"]
        url = {"DIFFSCRIBE_URL": server.url, "DIFFSCRIBE_API_KEY": "s3cret"}
        status, out, _ = await run("file", clip, "--format", "json", *options, env=url)
    assert status == 0
    messages = [decode_server(line) for line in out.splitlines()]
    assert isinstance(messages[-1], Done)
    assert sum(isinstance(message, Final) for message in messages) == 2
    [heard] = server.heard
    assert heard.authorization == "Bearer s3cret"
    start = heard.start
    assert (start.language, start.words, start.steps, start.partial_interval_ms) == (
        "de",
        True,
        4,
        250,
    )


async def test_subtitles_ask_for_words(serving, speaking_server, clip):
    async with serving(speaking_server()) as server:
        status, out, _ = await run(
            "file", clip, "--url", server.url, "--pace", "max", "--format", "vtt"
        )
    assert status == 0
    assert out.startswith("WEBVTT\n\n1\n00:00:00.000 --> 00:00:00.300\n0-4800\n")
    assert server.heard[0].start.words


async def test_live_without_a_terminal(serving, speaking_server, clip):
    async with serving(speaking_server()) as server:
        status, out, _ = await run("file", clip, "--url", server.url, "--live")
    assert status == 0
    assert "~ [some]" in out
    assert out.endswith("\n0-4800 4800-9600\n")


async def test_interrupted_it_still_prints_the_last_final(serving, speaking_server, tmp_path):
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(2 * 16000 * 60))
    heard_enough = asyncio.Event()

    class Server(speaking_server):
        async def handle(self, websocket):
            asyncio.get_running_loop().call_later(0.4, heard_enough.set)
            await super().handle(websocket)

    async with serving(Server(segment_samples=1 << 30)) as server:
        status, out, err = await run("file", path, "--url", server.url, interrupt=heard_enough)
    assert (status, err) == (cli.INTERRUPTED, "")
    assert out == f"0-{len(server.heard[0].audio) // 2}\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["file", "missing.wav"], "error: missing.wav: there is no such file"),
        (["file", "missing.wav", "--url", "ws://127.0.0.1:9"], "error: cannot connect to ws://"),
        (["load", "missing.wav"], "error: missing.wav: there is no such file"),
    ],
)
async def test_a_failure_is_one_line(serving, speaking_server, args, message):
    async with serving(speaking_server()) as server:
        status, out, err = await run(*args, env={"DIFFSCRIBE_URL": server.url})
    assert (status, out) == (1, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.skipif(find_spec("sounddevice") is not None, reason="there may be a microphone")
async def test_mic_without_its_extra(serving, speaking_server):
    status, out, err = await run("mic")
    assert (status, out) == (1, "")
    assert err == "error: the microphone needs an extra: pip install 'diffscribe[mic]'\n"


async def test_a_refusal_is_one_line(serving, speaking_server, clip):
    refusal = Error("unauthorized", "no key", None, False, True)
    async with serving(speaking_server(refuse=[refusal])) as server:
        result = await run("file", clip, "--url", server.url)
    assert result == (1, "", "error: the server refused: unauthorized: no key\n")


async def test_load_prints_json(serving, speaking_server, clip):
    async with serving(speaking_server()) as server:
        status, out, err = await run(
            "load", clip, "--url", server.url, "--streams", 3, "--ramp", 0, "--json"
        )
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert (report["streams"], report["failed"], report["finals"]) == (3, 0, 6)
    assert report["final"]["count"] == 6


async def test_load_fails_when_a_stream_fails(serving, speaking_server, clip):
    async with serving(speaking_server(cut_after=[4])) as server:
        status, out, err = await run("load", clip, "--url", server.url, "--streams", 2)
    assert status == 1
    assert "2 streams, 1 failed" in out
    assert "the connection broke" in err
    assert err.endswith("error: 1 of 2 streams failed\n")


async def test_captions_for_others(serving, speaking_server, caption_service, clip, tmp_path):
    vtt, srt = tmp_path / "talk.vtt", tmp_path / "talk.srt"
    async with serving(speaking_server()) as server:
        places = ["--out", vtt, "--out", srt, "--zoom", caption_service.url(), "--live"]
        result = await run("captions", clip, *places, "--speaker", "Ada", "--url", server.url)
    assert result == (0, "0-4800\n4800-9600\n", "")
    assert server.heard[0].start.words
    said = ["Ada: 0-4800", "Ada: 4800-9600"]
    captions = webvtt.read(str(vtt))
    assert [f"{caption.voice}: {caption.text}" for caption in captions] == said
    assert [event.text for event in pysubs2.load(str(srt))] == said
    assert [body for _, body in caption_service.taken] == [f"{line}\n" for line in said]


async def test_captions_that_nobody_takes_are_a_failure(serving, speaking_server, clip):
    async with serving(speaking_server()) as server:
        status, out, err = await run(
            "captions", clip, "--youtube", "http://127.0.0.1:9/cc", "--url", server.url
        )
    assert (status, out) == (1, "0-4800\n4800-9600\n")
    assert "YouTube did not take a caption" in err
    assert err.endswith("error: 2 captions were not taken\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["captions", "x"], ["--out", "--zoom", "--youtube"]),
        (["captions", "--out", "c.vtt", "--speaker", "A", "--speaker", "B"], ["--speaker"]),
        (["file", "x", "--live", "--format", "srt"], ["--live", "srt", "contradict"]),
        (["file", "x", "--steps", "65"], ["--steps", "64"]),
        (["file", "x", "--format", "mp3"], ["--format", "mp3"]),
        (["file"], ["FILE"]),
    ],
)
def test_wrong_usage(args, words):
    result = CliRunner().invoke(cli.app, args)
    assert result.exit_code == 2
    # Colours would part the dashes from the name.
    output = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    assert all(word in output for word in words)


def test_help_names_the_commands():
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    assert all(command in result.output for command in ("file", "mic", "captions", "load"))


async def test_a_meeting_of_files(serving, speaking_server, clip, tmp_path):
    async with serving(speaking_server()) as server:
        status, out, err = await run(
            "meeting", f"Anna={clip}", f"Ben={clip}@2", "--url", server.url, "--pace", "max",
            "--out", tmp_path / "m.md", "--out", tmp_path / "m.vtt", "--title", "Plan",
        )  # fmt: skip
    assert (status, err) == (0, "")
    assert sorted(out.splitlines()) == [
        "[00:00:00] Anna: 0-4800",
        "[00:00:00] Anna: 4800-9600",
        "[00:00:02] Ben: 0-4800",
        "[00:00:02] Ben: 4800-9600",
    ]
    assert (tmp_path / "m.md").read_text().startswith("# Plan\n\nAnna, Ben;")
    assert (tmp_path / "m.vtt").read_text().count("<v Ben>") == 2


async def test_a_meeting_as_json_in_one_mix(serving, speaking_server, clip):
    async with serving(speaking_server()) as server:
        status, out, _ = await run(
            "meeting", f"Anna={clip}", "--url", server.url, "--pace", "max", "--mixed", "always",
            "--format", "json",
        )  # fmt: skip
    assert status == 0
    assert [each["speaker"] for each in json.loads(out)["utterances"]] == ["Anna", "Anna"]


def test_a_meeting_wants_names():
    result = CliRunner().invoke(cli.app, ["meeting", "clip.wav"])
    assert result.exit_code == 2
    assert "NAME=FILE" in re.sub(r"\x1b\[[0-9;]*m", "", result.output)
