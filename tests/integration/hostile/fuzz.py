"""Anything at all, and how it is sent: what the tests of hostile input share."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from stream_server.server import Server

CASES = settings(
    max_examples=3 * settings().max_examples,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
FEW = settings(CASES, max_examples=settings().max_examples)
"""Where a case takes long."""
SECONDS = 10
"""After which a server that says nothing is taken for dead."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
SPEECH = (np.sin(np.arange(12_000) / 18) * np.sin(np.arange(12_000) / 5) * 9000).astype("<i2")
AUDIO = st.one_of(
    st.integers(0, 9000).map(bytes), st.binary(max_size=400), st.just(SPEECH.tobytes())
)

WAV = (
    b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data"
    b"\xff\xff\xff\xff" + SPEECH.tobytes()
)
SOUNDS = AUDIO | st.sampled_from([WAV, b"OggS", b"\x1aE\xdf\xa3", b"fLaC" + bytes(20)])


def nearly(valid: dict[str, Any]) -> st.SearchStrategy[str]:
    """An event with one field, at any depth, replaced by anything or left out."""

    def change(place: int, value: object) -> str:
        copy = json.loads(json.dumps(valid))
        spots = list(_spots(copy))
        holder, key = spots[place % len(spots)]
        if value == "left out":
            del holder[key]
        else:
            holder[key] = value
        return json.dumps(copy)

    return st.builds(change, st.integers(0, 50), JSON | st.just("left out"))


def _spots(value: Any) -> Iterator[tuple[dict[str, Any], str]]:
    for key, inner in value.items():
        yield value, key
        if isinstance(inner, dict):
            yield from _spots(inner)


def talk(
    url: str, frames: Sequence[str | bytes], last: str, until: str | None, **headers: str
) -> None:
    """Send everything; what comes must end, with the close or with an event of type ``until``."""
    with (
        contextlib.suppress(ConnectionClosed),
        connect(url, compression=None, additional_headers=headers) as socket,
    ):
        for frame in frames:
            socket.send(frame)
        socket.send(last)
        read(socket, until)


def read(socket: ClientConnection, until: str | None) -> None:
    while True:
        message = socket.recv(SECONDS)  # a timeout is a failure: the server does not answer
        if until is not None and json.loads(message)["type"] == until:
            return


ODD = st.text(max_size=6) | st.sampled_from(["", "-1", "0", "1e9", "nan", "999999999999", "true"])


def parameters(**choices: list[str]) -> st.SearchStrategy[str]:
    """Queries of the given values; in half of them one of the values is odd."""

    def change(chosen: dict[str, str], place: int, odd: str | None) -> str:
        names = list(chosen)
        changed = {names[place % len(names)]: odd} if names and odd is not None else {}
        return urllib.parse.urlencode(chosen | changed)

    each = {name: st.sampled_from(values) for name, values in choices.items()}
    right = st.fixed_dictionaries({}, optional=each)
    return st.builds(change, right, st.integers(0, 20), st.none() | ODD)


def talk_or_be_refused(
    server: Server, path: str, frames: Sequence[str | bytes], last: str, codes: set[int]
) -> None:
    """Send everything; the upgrade may be refused for its query, and the close has a known code."""
    url = server.url.replace("http", "ws", 1) + path
    refused: InvalidStatus | None = None
    try:
        with connect(url, compression=None) as socket, contextlib.suppress(ConnectionClosed):
            for frame in frames:
                socket.send(frame)
            socket.send(last)
            read(socket, None)
    except InvalidStatus as error:
        refused = error
    if refused is None:
        assert socket.close_code in codes
    else:
        assert refused.response.status_code == 400
        assert json.loads(refused.response.body)
