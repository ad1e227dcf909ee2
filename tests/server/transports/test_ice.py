"""ICE servers in three spellings."""

from __future__ import annotations

import msgspec
import pytest

from stream_server.transports.ice import IceServer, link_header, read_ice_server


def test_a_stun_server() -> None:
    server = read_ice_server("stun:stun.example.net:3478")
    assert server == IceServer("stun:stun.example.net:3478")
    assert link_header(server) == '<stun:stun.example.net:3478>; rel="ice-server"'
    assert msgspec.json.encode(server) == b'{"urls":"stun:stun.example.net:3478"}'


def test_a_turn_server_with_its_credentials() -> None:
    server = read_ice_server('turn:me:p%40ss"@turn.example.net?transport=udp')
    assert server == IceServer("turn:turn.example.net?transport=udp", "me", 'p@ss"')
    assert link_header(server) == (
        '<turn:turn.example.net?transport=udp>; rel="ice-server"; username="me"; '
        'credential="p@ss\\""; credential-type="password"'
    )


@pytest.mark.parametrize("text", ["", "http://x", "stun:", "stun:a b", 'stun:a"', "turn:u:p@"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write stun"):
        read_ice_server(text)
