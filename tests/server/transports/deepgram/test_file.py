"""A file in, Deepgram's answer out."""

from __future__ import annotations

import hashlib
import io
import wave

import httpx
import pytest

from stream_server.config import LimitsConfig
from stream_server.metrics import Metrics
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.deepgram.api import LIVE_PATH
from stream_server.transports.http import make_app


@pytest.fixture
async def client(make_services):
    admission = Admission(4)
    admission.open(make_services(), lambda: True)
    app = make_app(admission, Keys(("sesame",)), Metrics(), LimitsConfig(), "9.9")
    headers = {"Authorization": "Token sesame"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as client:
        yield client


def samples(wav: bytes) -> bytes:
    with wave.open(io.BytesIO(wav)) as reader:
        return reader.readframes(reader.getnframes())


async def test_a_file_and_its_samples_say_the_same(client, speech) -> None:
    data = speech(1.0, 1.4)
    file = await client.post(LIVE_PATH, content=data)
    raw = await client.post(
        LIVE_PATH,
        content=samples(data),
        params={"encoding": "linear16", "sample_rate": 16000, "channels": 1},
    )
    assert file.status_code == raw.status_code == 200
    assert file.json()["results"] == raw.json()["results"]
    metadata = file.json()["metadata"]
    assert metadata["sha256"] == hashlib.sha256(data).hexdigest()
    assert metadata["request_id"] == file.headers["dg-request-id"]
    assert raw.json()["metadata"]["sha256"] == hashlib.sha256(samples(data)).hexdigest()
    assert raw.json()["metadata"]["duration"] == pytest.approx(len(samples(data)) / 32_000)


async def test_words_utterances_and_paragraphs_agree(client, speech) -> None:
    params = {"smart_format": "true", "utterances": "true"}
    answer = await client.post(LIVE_PATH, content=speech(1.0, 1.4), params=params)
    results = answer.json()["results"]
    ((alternative,),) = [channel["alternatives"] for channel in results["channels"]]
    assert results["channels"][0]["detected_language"] == "en"
    assert [w["punctuated_word"] for w in alternative["words"]] == (
        alternative["transcript"].split()
    )
    utterances = results["utterances"]
    assert " ".join(each["transcript"] for each in utterances) == alternative["transcript"]
    assert [word for each in utterances for word in each["words"]] == alternative["words"]
    assert len({each["id"] for each in utterances}) == len(utterances) == 2
    paragraphs = alternative["paragraphs"]["paragraphs"]
    assert sum(each["num_words"] for each in paragraphs) == len(alternative["words"])


async def test_what_was_not_asked_for_is_not_there(client, speech) -> None:
    answer = await client.post(LIVE_PATH, content=speech(1.0))
    assert "utterances" not in answer.json()["results"]
    alternative = answer.json()["results"]["channels"][0]["alternatives"][0]
    assert "paragraphs" not in alternative
    assert "punctuated_word" not in alternative["words"][0]


@pytest.mark.parametrize(
    ("query", "content", "status", "said"),
    [
        ("", b"", 400, "empty"),
        ("", b"no audio at all", 400, "not audio"),
        ("encoding=linear16", b"\0\0", 400, "sample_rate"),
        ("multichannel=true", b"\0\0", 400, "multichannel"),
        ("punctuate=perhaps", b"\0\0", 400, "punctuate"),
        ("language=tlh", b"\0\0", 400, "language"),
    ],
)
async def test_refusals(client, query: str, content: bytes, status: int, said: str) -> None:
    answer = await client.post(f"{LIVE_PATH}?{query}", content=content)
    assert answer.status_code == status
    assert said in answer.json()["err_msg"]


async def test_nothing_is_fetched(client) -> None:
    answer = await client.post(LIVE_PATH, json={"url": "http://example.org/a.wav"})
    assert answer.status_code == 400
    assert "fetches nothing" in answer.json()["err_msg"]


async def test_a_wrong_key(client, speech) -> None:
    headers = {"Authorization": "Token wrong"}
    answer = await client.post(LIVE_PATH, content=speech(1.0), headers=headers)
    assert (answer.status_code, answer.json()["err_code"]) == (401, "INVALID_AUTH")
