"""OpenAI's keys for browsers: made with a key, in both dialects, with settings inside."""

from __future__ import annotations

from dataclasses import replace

import httpx
import msgspec
import pytest

from stream_server.config import LimitsConfig
from stream_server.keyring import ANYONE
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Caller, Keys
from stream_server.transports.http import make_app
from stream_server.transports.openai_config import Settings
from stream_server.transports.openai_secrets import read_settings
from stream_server.transports.tokens import Grant

SETTINGS = replace(Settings(), language="en", turn=None)


def test_settings_come_back_from_a_token_of_this_api_alone() -> None:
    def read(settings: bytes) -> Settings:
        return read_settings(Caller(ANYONE, Grant("", ("session",), None, settings)))

    assert read(msgspec.json.encode(SETTINGS)) == SETTINGS
    assert read(b"null") == read(b'{"other": 1}') == read(b"[]") == Settings()
    assert read_settings(Caller(ANYONE)) == Settings()


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
