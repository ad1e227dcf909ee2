"""Which models there are, and what is not here; uploads are in test_upload.py."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from stream_server.config import LimitsConfig
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.http import make_app


def client(admission: Admission, *keys: str) -> httpx.AsyncClient:
    app = make_app(admission, Keys(keys), Metrics(), LimitsConfig(), "9.9")
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.fixture
def admission(make_services) -> Admission:
    admission = Admission(1)
    admission.open(make_services(), lambda: True)
    return admission


async def test_the_loaded_model_is_listed(admission: Admission) -> None:
    async with client(admission) as http:
        listed = (await http.get("/v1/models")).json()
        (model,) = listed["data"]
        assert (listed["object"], model["object"], model["id"]) == ("list", "model", "fake")
        assert isinstance(model["created"], int)
        assert (await http.get("/v1/models/fake")).json() == model


async def get(http: httpx.AsyncClient, path: str) -> tuple[int, dict[str, Any]]:
    answer = await http.get(path)
    return answer.status_code, answer.json()["error"]


async def test_other_models_do_not_exist(admission: Admission) -> None:
    async with client(admission) as http:
        for name in ("whisper-1", "org/model", "x" * 500):
            status, error = await get(http, f"/v1/models/{name}")
            assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_without_a_model_or_a_key_there_is_no_list(admission: Admission) -> None:
    async with client(Admission(1)) as http:
        status, error = await get(http, "/v1/models")
        assert (status, error["code"]) == (503, "overloaded")
    async with client(admission, "sesame") as http:
        status, error = await get(http, "/v1/models")
        assert (status, error["code"]) == (401, "unauthorized")


async def test_translations_are_refused(admission: Admission) -> None:
    async with client(admission) as http:
        answer = await http.post("/v1/audio/translations", files={"file": b"x"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unsupported_endpoint")
    assert "/v1/audio/transcriptions" in error["message"]
