"""A file over HTTP becomes text in the format that was asked for."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from stream_server.config import LimitsConfig
from stream_server.metrics import Metrics
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.http import UPLOAD_PATH, make_app
from stream_server.transports.upload import UploadEndpoint


@pytest.fixture
def http(make_services):
    """Makes a client of an application around any recogniser."""

    def make(recogniser=None, limits: LimitsConfig | None = None) -> httpx.AsyncClient:
        admission = Admission(4)
        admission.open(make_services(recogniser, limits), lambda: True)
        app = make_app(admission, Keys(()), Metrics(), LimitsConfig(), "9.9")
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    return make


async def test_a_form_and_a_body_say_the_same(http, speech) -> None:
    data = speech(1.0, 1.4)
    async with http() as client:
        form = await client.post(UPLOAD_PATH, files={"file": ("a.wav", data)})
        body = await client.post(UPLOAD_PATH, content=data, headers={"Content-Type": "audio/wav"})
    assert form.status_code == body.status_code == 200
    assert form.json() == body.json()
    assert len(form.json()["text"].split()) > 4


@pytest.mark.parametrize(
    ("kind", "starts"),
    [
        ("json", '{"text":'),
        ("text", "a "),
        ("srt", "1\n00:00:00,"),
        ("vtt", "WEBVTT\n\n1\n00:00:00."),
        ("verbose_json", '{"task":"transcribe"'),
    ],
)
async def test_formats(http, speech, kind: str, starts: str) -> None:
    async with http() as client:
        answer = await client.post(
            UPLOAD_PATH, files={"file": speech(1.0)}, data={"response_format": kind}
        )
    assert answer.status_code == 200
    assert answer.text[: len(starts)].lower() == starts.lower() or kind == "text"
    assert answer.text.strip()


async def test_fields_of_openais_clients_are_taken(http, speech) -> None:
    fields = {
        "model": "whisper-1",
        "prompt": "digits",
        "temperature": "0",
        "language": "en",
        "response_format": "verbose_json",
        "timestamp_granularities[]": ["word", "segment"],
        "stream": "false",
    }
    async with http() as client:
        answer = await client.post(UPLOAD_PATH, files={"file": speech(1.0)}, data=fields)
    assert answer.json()["words"]
    assert answer.json()["language"] == "en"


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "timestamp_granularities"])
@pytest.mark.parametrize(
    ("kinds", "has_words"), [([], False), (["word"], True), (["word", "segment"], True)]
)
async def test_granularities(http, speech, name, kinds, has_words) -> None:
    fields = {"response_format": "verbose_json", name: kinds}
    async with http() as client:
        answer = await client.post(UPLOAD_PATH, files={"file": speech(1.0)}, data=fields)
    verbose = answer.json()
    assert ("words" in verbose) == has_words
    assert [("words" in segment) for segment in verbose["segments"]] == [has_words]


async def test_an_odd_granularity_is_refused(http, speech) -> None:
    fields = {"timestamp_granularities[]": ["word", "char"]}
    async with http() as client:
        answer = await client.post(UPLOAD_PATH, files={"file": speech(1.0)}, data=fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "timestamp_granularities"


async def test_one_of_several_languages_is_the_language(http, speech) -> None:
    async with http() as client:
        for languages, status in ((["en"], 200), (["de"], 400), (["en", "de"], 200)):
            answer = await client.post(
                UPLOAD_PATH, files={"file": speech(1.0)}, data={"languages[]": languages}
            )
            assert answer.status_code == status


async def test_a_stream_says_what_the_whole_says(http, speech) -> None:
    data = speech(1.0, 1.4)
    async with http() as client:
        whole = await client.post(UPLOAD_PATH, files={"file": data})
        stream = await client.post(UPLOAD_PATH, files={"file": data}, data={"stream": "true"})
        bad = await client.post(UPLOAD_PATH, files={"file": b"x"}, data={"stream": "true"})
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(each[6:]) for each in stream.text.split("\n\n")[:-1]]
    assert [event["type"] for event in events] == [
        *["transcript.text.delta"] * 2,
        "transcript.text.done",
    ]
    deltas = "".join(event.get("delta", "") for event in events)
    assert deltas == events[-1]["text"] == whole.json()["text"]
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "bad_audio")


class Broken(FakeRecogniser):
    def start(self, utterances):
        raise RuntimeError("secret")


async def test_a_broken_model_is_told_without_detail(http, speech) -> None:
    async with http(Broken()) as client:
        answer = await client.post(UPLOAD_PATH, content=speech(1.0))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "recognition_failed")
    assert "secret" not in answer.text


async def test_the_limit_counts_the_file_alone(http, speech) -> None:
    data = speech(1.0)
    for limit, status in ((len(data), 200), (len(data) - 1, 413)):
        async with http(limits=LimitsConfig(max_upload_bytes=limit)) as client:
            form = await client.post(UPLOAD_PATH, files={"file": data}, data={"model": "x"})
            body = await client.post(UPLOAD_PATH, content=data)
            assert (form.status_code, body.status_code) == (status, status)


def post(*messages: dict[str, object], pending: asyncio.Event | None = None):
    """Return scope, receive and the list of what is sent, for a raw body."""
    scope = {
        "type": "http", "method": "POST", "path": UPLOAD_PATH, "headers": [], "query_string": b"",
    }  # fmt: skip
    queue = list(messages)

    async def receive():
        if queue:
            return queue.pop(0)
        await (pending or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    return scope, receive


async def test_a_client_that_leaves_takes_its_work_with_it(make_services, speech) -> None:
    from starlette.requests import Request

    recogniser = FakeRecogniser(step_seconds=0.01)
    services = make_services(recogniser)
    admission, left = Admission(1), asyncio.Event()
    admission.open(services, lambda: True)
    endpoint = UploadEndpoint(admission, Keys(()), Metrics())
    body = {"type": "http.request", "body": speech(*[0.8] * 6), "more_body": False}
    answering = asyncio.create_task(endpoint(Request(*post(body, pending=left))))
    async with asyncio.timeout(5):
        while not recogniser.live_rows:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        left.set()
        assert (await answering).status_code == 499
        while recogniser.live_rows or services.engine.load().queued:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert admission.inside == 0


async def test_a_place_is_held_while_a_stream_is_answered(make_services, speech) -> None:
    from starlette.requests import Request

    admission = Admission(1)
    admission.open(make_services(), lambda: True)
    endpoint = UploadEndpoint(admission, Keys(()), Metrics())
    body = {"type": "http.request", "body": speech(0.8), "more_body": False}
    scope, receive = post(body)
    scope["query_string"] = b"stream=true"
    answer = await endpoint(Request(scope, receive))
    assert admission.inside == 1
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await answer(scope, receive, send)
    assert admission.inside == 0
    assert b"transcript.text.done" in b"".join(bytes(m.get("body", b"")) for m in sent)


async def test_a_client_that_leaves_while_sending_is_forgotten(make_services) -> None:
    from starlette.requests import Request

    admission = Admission(1)
    admission.open(make_services(), lambda: True)
    endpoint = UploadEndpoint(admission, Keys(()), Metrics())
    begun = {"type": "http.request", "body": b"RIFF", "more_body": True}
    scope, receive = post(begun, {"type": "http.disconnect"})
    assert (await endpoint(Request(scope, receive))).status_code == 499
    assert admission.inside == 0


async def test_a_client_that_sends_nothing_more_is_sent_away(make_services) -> None:
    from starlette.requests import Request

    admission = Admission(1)
    admission.open(make_services(limits=LimitsConfig(idle_timeout_ms=20)), lambda: True)
    endpoint = UploadEndpoint(admission, Keys(()), Metrics())
    begun = {"type": "http.request", "body": b"RIFF", "more_body": True}
    answer = await endpoint(Request(*post(begun)))
    assert (answer.status_code, json.loads(answer.body)["error"]["code"]) == (504, "timeout")


async def test_a_file_may_take_only_so_long(make_services) -> None:
    from starlette.requests import Request

    admission = Admission(1)
    admission.open(make_services(limits=LimitsConfig(max_open_ms=50)), lambda: True)
    endpoint = UploadEndpoint(admission, Keys(()), Metrics())

    async def drip() -> dict[str, object]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"R", "more_body": True}

    async with asyncio.timeout(5):
        answer = await endpoint(Request(post()[0], drip))
    assert (answer.status_code, json.loads(answer.body)["error"]["code"]) == (429, "limit")
    assert admission.inside == 0
