"""The order of messages of Vosk's own test client: send a piece, wait for its answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect


def transcribe(url: str, path: Path, rate: int) -> list[dict[str, Any]]:
    """Do what vosk-server's ``websocket/test.py`` does, and see that the server then closes."""
    heard = []
    with connect(url.replace("http", "ws", 1)) as socket, path.open("rb") as file:
        socket.send(f'{{ "config" : {{ "sample_rate" : {rate} }} }}')
        while data := file.read(int(rate * 0.2) * 2):
            socket.send(data)
            heard.append(json.loads(socket.recv(5)))
        socket.send('{"eof" : 1}')
        heard.append(json.loads(socket.recv(10)))
        with pytest.raises(ConnectionClosedOK):
            socket.recv(5)
    return heard


def words_of(heard: list[dict[str, Any]]) -> str:
    return " ".join(each["text"] for each in heard if each.get("text"))


@pytest.mark.parametrize("path", ["/", "/vosk", "/vosk/en", "/?model=any"])
def test_each_piece_has_one_answer(server, voice, tmp_path, path: str) -> None:
    file = tmp_path / "voice.pcm"
    file.write_bytes(voice())
    heard = transcribe(server.url + path, file, 16_000)
    assert len(heard) == -(-len(voice()) // 6400) + 1
    assert {"partial", "text"} >= {next(iter(set(each) - {"result"})) for each in heard}
    (result,) = [each for each in heard if each.get("text")]
    assert [word["word"] for word in result["result"]] == result["text"].split()
    assert all(word["start"] < word["end"] for word in result["result"])


@pytest.mark.model
@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_the_words_of_people(hearing, clip, recording, rate: int) -> None:
    recording.check([words_of(transcribe(hearing.url, clip(rate), rate))])
