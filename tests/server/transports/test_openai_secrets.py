"""Short-lived keys: made with a key, opened until they expire, never by anyone else's."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.config import LimitsConfig
from stream_server.errors import Unauthorized
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.http import make_app
from stream_server.transports.openai_config import Settings
from stream_server.transports.openai_secrets import ClientSecrets

SETTINGS = replace(Settings(), language="en", turn=None)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_settings_come_back_until_it_expires() -> None:
    clock = Clock()
    secrets = ClientSecrets(b"s" * 32, clock)
    made = secrets.make(SETTINGS, 60)
    assert made.expires_at == 1060
    assert secrets.open(made.value) == SETTINGS
    assert ClientSecrets(b"s" * 32, clock).open(made.value) == SETTINGS
    clock.now = 1061.0
    with pytest.raises(Unauthorized, match="expired"):
        secrets.open(made.value)


def test_those_of_others_are_not_opened() -> None:
    made = ClientSecrets(b"a" * 32).make(SETTINGS)
    assert ClientSecrets(b"b" * 32).open(made.value) is None


@given(st.text() | st.text("abcdefghijklmnop-_=", max_size=200).map("ek_".__add__))
def test_anything_else_is_something_else(value: str) -> None:
    assert ClientSecrets(b"a" * 32).open(value) is None


@given(st.integers(3, 100), st.sampled_from("AZ_-09"))
def test_a_changed_one_is_something_else(place: int, letter: str) -> None:
    secrets = ClientSecrets(b"a" * 32)
    value = secrets.make(SETTINGS).value
    changed = value[:place] + letter + value[place + 1 :]
    if changed != value:
        assert secrets.open(changed) is None


@pytest.fixture
def http(make_services):
    """Makes a client of an application with the key ``sesame``."""
    admission = Admission(1)
    admission.open(make_services(), lambda: True)
    app = make_app(admission, Keys(["sesame"]), Metrics(), LimitsConfig(), "9.9")
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://test/v1/realtime",
        headers={"Authorization": "Bearer sesame"},
    )


async def test_both_dialects_make_one(http) -> None:
    async with http:
        session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
        body = {"session": session, "expires_after": {"anchor": "created_at", "seconds": 60}}
        made = (await http.post("/client_secrets", json=body)).json()
        assert made["value"].startswith("ek_")
        assert made["session"]["audio"]["input"]["turn_detection"] is None
        beta = {"input_audio_format": "g711_ulaw"}
        made = (await http.post("/transcription_sessions", json=beta)).json()
        assert made["client_secret"]["value"].startswith("ek_")
        assert made["input_audio_format"] == "g711_ulaw"
        assert (await http.post("/client_secrets")).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b'{"expires_after":{"seconds":1}}', 400, "expires_after.seconds"),
        (b'{"session":{"type":"realtime"}}', 400, "session.type"),
        (b" " * 70_000, 413, None),
    ],
)
async def test_what_is_wrong_is_refused(http, body: bytes, status: int, param: str | None) -> None:
    async with http:
        answer = await http.post("/client_secrets", content=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_only_a_key_makes_one(http) -> None:
    async with http:
        for path in ("/client_secrets", "/transcription_sessions"):
            answer = await http.post(path, headers={"Authorization": "Bearer wrong"})
            assert answer.status_code == 401
