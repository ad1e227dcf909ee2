"""Every error has one answer on the wire, and defects give nothing away."""

from __future__ import annotations

import pickle
from typing import get_args

import pytest

from stream_protocol.errors import LocalProtocolError, RemoteProtocolError
from stream_protocol.messages import ErrorCode
from stream_server import errors
from stream_server.errors import (
    ConfigError,
    DiffscribeError,
    InvalidField,
    ModelError,
    RequestError,
    ServiceError,
    error_message,
    wire_error,
)

CODES: dict[str, ErrorCode] = {
    "InvalidField": "invalid_field",
    "BadAudio": "bad_audio",
    "TooLarge": "too_large",
    "LimitReached": "limit",
    "Unauthorized": "unauthorized",
    "Overloaded": "overloaded",
    "Draining": "draining",
    "DeadlineExceeded": "timeout",
    "RecognitionFailed": "recognition_failed",
}


def leaves(kind: type[Exception]) -> set[type[Exception]]:
    below = kind.__subclasses__()
    return set().union(*(leaves(each) for each in below)) if below else {kind}


ANSWERED = sorted(leaves(RequestError) | leaves(ServiceError), key=lambda kind: kind.__name__)


def test_every_error_that_a_client_can_cause_is_known_here() -> None:
    assert {kind.__name__ for kind in ANSWERED} == CODES.keys()


@pytest.mark.parametrize("kind", ANSWERED)
def test_each_has_exactly_one_code(kind: type[Exception]) -> None:
    wire = wire_error(kind("what happened"))
    assert wire.code == CODES[kind.__name__]
    assert wire.code in get_args(ErrorCode)
    assert [name for name, code in CODES.items() if code == wire.code] == [kind.__name__]


@pytest.mark.parametrize("kind", ANSWERED)
def test_statuses_say_whose_fault_it_is(kind: type[Exception]) -> None:
    wire = wire_error(kind("what happened"))
    is_clients = issubclass(kind, RequestError)
    assert (400 <= wire.http_status < 500) == is_clients
    assert (500 <= wire.http_status < 600) == (not is_clients)
    assert 1001 <= wire.close_code <= 1014
    assert wire.close_code not in (1005, 1006), "these are never sent (RFC 6455, 7.4.1)"
    if issubclass(kind, ServiceError):
        assert wire.retryable


@pytest.mark.parametrize("kind", ANSWERED)
def test_messages_keep_the_remedy(kind: type[Exception]) -> None:
    message = error_message(kind("send less"))
    assert message.message == "send less"
    assert message.code == CODES[kind.__name__]
    assert message.field is None


def test_the_field_is_named() -> None:
    assert error_message(InvalidField("no", field="$.steps")).field == "$.steps"


def test_a_protocol_violation_carries_its_own_answer() -> None:
    error = RemoteProtocolError("wrong_state", "audio after stop", close_code=1008, field="$.type")
    assert wire_error(error).code == "wrong_state"
    assert wire_error(error).close_code == 1008
    assert wire_error(error).http_status == 400
    message = error_message(error)
    assert (message.code, message.message, message.field, message.fatal) == (
        "wrong_state",
        "audio after stop",
        "$.type",
        True,
    )


@pytest.mark.parametrize(
    "error",
    [
        ValueError("/home/someone/model.bin"),
        RuntimeError("CUDA error at /home/someone"),
        LocalProtocolError("/home/someone"),
        KeyboardInterrupt("/home/someone"),
    ],
)
def test_unknown_errors_give_no_detail_away(error: BaseException) -> None:
    class WithField(type(error)):  # type: ignore[misc]
        field = "/home/someone"

    for each in (error, WithField(*error.args)):
        message = error_message(each)
        assert message.code == "internal"
        assert "someone" not in message.message
        assert message.field is None
        assert message.fatal


def test_a_subclass_is_answered_as_its_base() -> None:
    class TooLoud(errors.BadAudio):
        pass

    try:
        assert wire_error(TooLoud("x")).code == "bad_audio"
    finally:
        del TooLoud  # Others in this process walk the tree of subclasses.


def test_config_error_names_key_value_and_what_is_allowed() -> None:
    error = ConfigError("listen.port", 70_000, "0 to 65535")
    assert str(error) == "listen.port=70000 is not valid: 0 to 65535"
    assert (error.key, error.value, error.allowed) == ("listen.port", 70_000, "0 to 65535")


def test_config_error_comes_from_another_process_as_it_was() -> None:
    error = pickle.loads(pickle.dumps(ConfigError("listen.port", 70_000, "0 to 65535")))
    assert (error.key, error.value, error.allowed) == ("listen.port", 70_000, "0 to 65535")


def test_errors_of_the_start_are_of_the_tree_and_have_no_code() -> None:
    for error in (ConfigError("a", 1, "2"), ModelError("no file")):
        assert isinstance(error, DiffscribeError)
        assert wire_error(error).code == "internal"
