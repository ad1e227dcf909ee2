from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from stream_protocol.connection import (
    AUDIO,
    TRANSITIONS,
    Connection,
    Event,
    State,
    event_of,
    render_mermaid,
)
from stream_protocol.errors import LocalProtocolError, RemoteProtocolError
from stream_protocol.messages import (
    Ack,
    ClientMessage,
    Configure,
    Done,
    Error,
    Flush,
    Limits,
    Ready,
    ServerMessage,
    Start,
    Stop,
)

ROOT = Path(__file__).parents[2]
READY = Ready("s", "t", "m", [], Limits(1, 1, 1, 1))
FATAL = Error("internal", "x", None, True, True)
MINOR = Error("recognition_failed", "x", None, True, False)


def pair(*steps):
    """Run steps through both sides; each is sent by the one and received by the other."""
    client, server = Connection("client"), Connection("server")
    for role, message in steps:
        sender, receiver = (client, server) if role == "client" else (server, client)
        assert sender.send(message) is receiver.receive(message)
        assert client.state is server.state
    return client, server


STREAMING = [("client", Start()), ("server", READY)]


def test_a_whole_conversation():
    client, server = pair(
        *STREAMING,
        ("client", AUDIO),
        ("server", Ack(1)),
        ("client", Flush()),
        ("client", Configure()),
        ("server", MINOR),
        ("client", Stop()),
        ("server", Ack(2)),
        ("server", Done(2, 0)),
    )
    assert client.state is State.CLOSED
    assert server.state is State.CLOSED


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ([], AUDIO),
        ([], Stop()),
        ([("client", Start())], AUDIO),
        ([("client", Start())], Start()),
        (STREAMING, Start()),
        ([*STREAMING, ("client", Stop())], AUDIO),
        ([*STREAMING, ("client", Stop())], Stop()),
        ([*STREAMING, ("server", FATAL)], AUDIO),
    ],
)
def test_what_a_client_may_not_send(before, message):
    client, server = pair(*before)
    state = client.state
    with pytest.raises(LocalProtocolError, match=f"while {state.value}"):
        client.send(message)
    with pytest.raises(RemoteProtocolError, match=f"`{event_of(message)}`") as caught:
        server.receive(message)
    assert (caught.value.code, caught.value.close_code) == ("wrong_state", 1002)
    assert client.state is server.state is state


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ([], READY),
        ([], MINOR),
        ([("client", Start())], Ack(1)),
        ([("client", Start())], MINOR),
        (STREAMING, READY),
        (STREAMING, Done(1, 0)),
        ([*STREAMING, ("server", FATAL)], FATAL),
    ],
)
def test_what_a_server_may_not_send(before, message):
    client, server = pair(*before)
    with pytest.raises(LocalProtocolError):
        server.send(message)
    with pytest.raises(RemoteProtocolError):
        client.receive(message)


@pytest.mark.parametrize("before", [[], STREAMING[:1], STREAMING, [*STREAMING, ("client", Stop())]])
def test_a_server_may_fail_at_any_time(before):
    client, server = pair(*before, ("server", FATAL))
    assert client.state is server.state is State.CLOSED


def test_a_refused_message_leaves_room_for_the_answer():
    server = Connection("server")
    with pytest.raises(RemoteProtocolError):
        server.receive(AUDIO)
    assert server.send(FATAL) is State.CLOSED


def test_roles_do_not_mix():
    with pytest.raises(LocalProtocolError):
        Connection("server").send(Start())
    with pytest.raises(RemoteProtocolError):
        Connection("client").receive(Start())


def test_a_lost_socket_closes():
    client, _ = pair(*STREAMING)
    client.close()
    with pytest.raises(LocalProtocolError, match="may send nothing"):
        client.send(AUDIO)


def test_the_table_names_every_message_and_every_state():
    tags = {
        kind.__struct_config__.tag for kind in get_args(ClientMessage) + get_args(ServerMessage)
    }
    assert tags | {"audio", "fatal_error"} == set(get_args(Event))
    used = {event for states in TRANSITIONS.values() for row in states.values() for event in row}
    assert used == set(get_args(Event))
    assert all(set(states) == set(State) for states in TRANSITIONS.values())


def test_the_specification_holds_the_diagram_of_the_table():
    text = (ROOT / "protocol/README.md").read_text()
    assert f"```mermaid\n{render_mermaid()}```\n" in text
    assert text.count("```mermaid") == 1


def test_the_diagram_holds_every_arrow():
    lines = render_mermaid().splitlines()
    for states in TRANSITIONS.values():
        for state, row in states.items():
            for event, target in row.items():
                arrow = f"{state.name} --> {target.name}:"
                assert any(arrow in line and event in line for line in lines)
