from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_protocol.codec import (
    MAX_CLIENT_TEXT_BYTES,
    MAX_INTEGER,
    decode_client,
    decode_server,
    encode,
)
from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    Ack,
    Configure,
    Done,
    Endpointing,
    Error,
    Final,
    Flush,
    Flushed,
    Limits,
    Message,
    Notice,
    Partial,
    Ready,
    Resume,
    SpeechEnded,
    SpeechStarted,
    Start,
    Stop,
    Timings,
    Word,
)

CLIENT = [
    Start(),
    Start("mulaw", 8000, 2, "split", "de", 0, 3, True, Endpointing(1, 2, 3), Resume("t", 5, 6)),
    Flush(),
    Flush("é\u2028"),
    Configure(),
    Configure(Endpointing(), "fr", 100),
    Stop(),
]
SERVER = [
    Ready("s", "t", "m", ["en", "de"], Limits(1, 2, 3, 4)),
    Ack(MAX_INTEGER),
    SpeechStarted(0, 0, 1),
    SpeechEnded(0, 1, 2),
    Partial(1, 0, 2, "so", " far", 3, 4),
    Final(1, 0, 3, "x", 0, 9, None, 0.5, [Word("x", 1, 2, 1.0)], Timings(1.0, 2.0, 3.0, 8)),
    Flushed(3, "a"),
    Notice("silence", "nothing"),
    Error("bad_audio", "why", None, False, True),
    Done(3, 1),
]


def refused(data, decode=decode_client, **options):
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data, **options)
    error = caught.value
    assert len(str(error)) < 300
    return error.code, error.close_code, error.field


@pytest.mark.parametrize("message", CLIENT)
def test_client_messages_come_back(message):
    assert decode_client(encode(message)) == message
    assert decode_client(encode(message).encode()) == message


@pytest.mark.parametrize("message", SERVER)
def test_server_messages_come_back(message):
    assert decode_server(encode(message)) == message


def test_the_type_is_on_the_wire():
    assert json.loads(encode(Stop())) == {"type": "stop"}


@pytest.mark.parametrize(
    "data",
    [
        "",
        " ",
        "x",
        "{",
        '{"type":"stop"',
        '{"type":"stop"} {}',
        "\ufeff" + '{"type":"stop"}',
        '{"type":"start","words":NaN}',
        b"\xff\xfe",
        b'{"type":"start","language":"\xff"}',
        '{"type":"start","language":"\ud800"}',
        r'{"type":"start","language":"\ud800"}',
        "[" * 60_000,
        '{"a":' * 10_000,
        "null",
        "7",
        '"stop"',
        '[{"type":"stop"}]',
    ],
)
def test_what_is_no_json_object(data):
    assert refused(data)[:2] == ("bad_message", 1007)


@pytest.mark.parametrize(
    "data",
    ["{}", '{"type":"begin"}', '{"type":1}', '{"type":null}', '{"type":"ack","samples":1}'],
)
def test_types_that_a_client_may_not_send(data):
    assert refused(data) == ("bad_message", 1007, "$.type")


def test_a_server_may_not_send_a_clients_message():
    assert refused(encode(Start()), decode_server) == ("bad_message", 1007, "$.type")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ('{"type":"start","x":1}', "$.x"),
        ('{"type":"start","x":' + "[" * 1000 + "]" * 1000 + "}", "$.x"),
        ('{"type":"start","endpointing":{"silence":1}}', "$.endpointing.silence"),
        ('{"type":"start","endpointing":{"silence_ms":"1"}}', "$.endpointing.silence_ms"),
        ('{"type":"start","endpointing":null}', "$.endpointing"),
        ('{"type":"start","resume":{"position":1}}', "$.resume.token"),
        ('{"type":"start","sample_rate":22050}', "$.sample_rate"),
        ('{"type":"start","sample_rate":"16000"}', "$.sample_rate"),
        ('{"type":"start","encoding":"mp3"}', "$.encoding"),
        ('{"type":"start","channels":1.5}', "$.channels"),
        ('{"type":"start","channels":true}', "$.channels"),
        ('{"type":"start","channels":1e400}', "$.channels"),
        (f'{{"type":"start","channels":{MAX_INTEGER + 1}}}', "$.channels"),
        (f'{{"type":"start","channels":{-MAX_INTEGER - 1}}}', "$.channels"),
        ('{"type":"start","channels":' + "9" * 5000 + "}", "$.channels"),
        (f'{{"type":"start","resume":{{"token":"t","position":{10**30}}}}}', "$.resume.position"),
        ('{"type":"flush","id":7}', "$.id"),
    ],
)
def test_fields_that_are_wrong(data, field):
    assert refused(data) == ("invalid_field", 1008, field)


def test_a_list_item_is_named():
    text = encode(SERVER[5]).replace('"start":1,', f'"start":{10**20},')
    assert refused(text, decode_server) == ("invalid_field", 1008, "$.words[0].start")


def test_size_is_counted_in_bytes():
    assert refused("x" * (MAX_CLIENT_TEXT_BYTES + 1)) == ("too_large", 1009, None)
    message = encode(Flush("é" * 20))
    size = len(message.encode())
    assert decode_client(message, max_bytes=size) == Flush("é" * 20)
    assert refused(message, max_bytes=size - 1) == ("too_large", 1009, None)
    assert refused(message.encode(), max_bytes=size - 1) == ("too_large", 1009, None)


def test_a_long_name_is_not_echoed_whole():
    assert refused('{"type":"start","' + "n" * 5000 + '":1}')[0] == "invalid_field"


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_nothing_else_is_ever_raised(data):
    for decode in (decode_client, decode_server):
        with pytest.raises(RemoteProtocolError):
            decode(data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.sampled_from([*CLIENT, *SERVER]), st.data())
def test_a_message_with_one_value_changed_decodes_or_is_refused(message, data):
    decode = decode_client if message in CLIENT else decode_server
    value = json.loads(encode(message))
    value[data.draw(st.sampled_from([*value, "other"]))] = data.draw(_json)
    # Anything but a refusal goes through and fails the test.
    with contextlib.suppress(RemoteProtocolError):
        assert isinstance(decode(json.dumps(value)), Message)
