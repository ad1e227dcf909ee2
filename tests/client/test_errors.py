from __future__ import annotations

import pytest

from stream_client import errors
from stream_client.errors import ClientError, ConnectionFailed, ServerRefused
from stream_protocol.messages import Error


def test_a_refusal_names_code_field_and_reason():
    refusal = ServerRefused.from_message(Error("invalid_field", "too big", "$.steps", False, True))
    assert str(refusal) == "the server refused: invalid_field ($.steps): too big"
    assert (refusal.code, refusal.field, refusal.retryable) == ("invalid_field", "$.steps", False)
    assert "(" not in str(ServerRefused("overloaded", "full", retryable=True))


def test_a_failed_connection_names_the_url():
    assert str(ConnectionFailed("ws://x", "no")) == "cannot connect to ws://x: no"


@pytest.mark.parametrize("name", errors.__all__)
def test_one_base(name):
    assert issubclass(getattr(errors, name), ClientError)
    assert name in errors.__doc__
