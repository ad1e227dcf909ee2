"""Golden conversations go through codec and connection on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream_protocol.codec import decode_client, decode_server, encode
from stream_protocol.connection import AUDIO, Connection, State
from stream_protocol.errors import LocalProtocolError, RemoteProtocolError

VECTORS = sorted((Path(__file__).parents[2] / "protocol/vectors").glob("*.jsonl"))
NEEDED = {
    "simple", "flush_and_stop", "configure", "resume", "split_channels", "bad_json",
    "binary_before_start", "unknown_field", "wrong_type", "audio_after_stop", "second_start",
}  # fmt: skip
DECODERS = {"client": decode_client, "server": decode_server}


def test_the_conversations_are_there():
    assert {path.stem for path in VECTORS} >= NEEDED


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_replay(path):
    about, *frames = (json.loads(line) for line in path.read_text().splitlines())
    assert set(about) == {"about"}
    assert frames
    sides = {"client": Connection("client"), "server": Connection("server")}
    for frame in frames:
        sender = sides[frame["from"]]
        receiver = sides["server" if frame["from"] == "client" else "client"]
        assert set(frame) - {"text", "audio_bytes"} in ({"from", "state"}, {"from", "error"})
        if "error" in frame:
            refuse(frame, sender, receiver)
            continue
        message = read(frame)
        if "text" in frame:
            assert read({**frame, "text": encode(message)}) == message
        assert sender.send(message) is receiver.receive(message) is State(frame["state"])


def read(frame):
    if "audio_bytes" in frame:
        assert frame["audio_bytes"] > 0
        return AUDIO
    return DECODERS[frame["from"]](frame["text"])


def refuse(frame, sender, receiver):
    before = receiver.state
    with pytest.raises(RemoteProtocolError) as caught:
        receiver.receive(read(frame))
    error = caught.value
    assert {
        "code": error.code, "close_code": error.close_code, "field": error.field
    } == frame["error"]  # fmt: skip
    assert receiver.state is before
    # A peer of ours would not have sent it: either it is no message, or not legal now.
    if error.code == "wrong_state":
        with pytest.raises(LocalProtocolError):
            sender.send(read(frame))
