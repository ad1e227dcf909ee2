from __future__ import annotations

from stream_protocol.errors import LocalProtocolError, ProtocolError, RemoteProtocolError


def test_a_remote_error_carries_the_answer():
    error = RemoteProtocolError("invalid_field", "no", close_code=1008, field="$.steps")
    assert (error.code, error.close_code, error.field) == ("invalid_field", 1008, "$.steps")
    assert str(error) == "no"
    assert RemoteProtocolError("wrong_state", "no").close_code == 1002


def test_both_are_protocol_errors():
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
