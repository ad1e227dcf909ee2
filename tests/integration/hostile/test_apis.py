"""Anything at all is sent to the APIs of others; the server and its other sessions live on."""

from __future__ import annotations

import base64
import contextlib
import json
import socket as sockets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.server import Server
from tests.integration.hostile.fuzz import (
    AUDIO,
    CASES,
    JSON,
    SECONDS,
    SOUNDS,
    nearly,
    parameters,
    talk,
    talk_or_be_refused,
)

pytestmark = pytest.mark.timeout(900)  # thorough takes its time

# --- OpenAI ---------------------------------------------------------------------------------------

TURNS = {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 300}
GA = {
    "type": "session.update",
    "event_id": "e",
    "session": {
        "type": "transcription",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": {"model": "m", "language": "en", "languages": ["en"]},
                "turn_detection": TURNS,
            }
        },
    },
}
BETA = {
    "type": "transcription_session.update",
    "session": {
        "input_audio_format": "g711_ulaw",
        "input_audio_transcription": {"language": ""},
        "turn_detection": TURNS,
    },
}
MANUAL = {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}}
EVENTS = st.one_of(
    st.text(max_size=50),
    JSON.map(json.dumps),
    nearly(GA),
    nearly(BETA),
    st.sampled_from([GA, BETA, MANUAL]).map(json.dumps),
    st.sampled_from(
        [
            "input_audio_buffer.commit",
            "input_audio_buffer.clear",
            "response.create",
            "conversation.item.delete",
            "x",
        ]
    ).map(lambda kind: json.dumps({"type": kind})),
    AUDIO.map(
        lambda audio: json.dumps(
            {"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()}
        )
    ),
    nearly({"type": "input_audio_buffer.append", "audio": "AAAA"}),
    AUDIO,
)


@CASES
@given(frames=st.lists(EVENTS, max_size=8), is_beta=st.booleans())
def test_openai_realtime(server: Server, bystander: str, frames: Any, is_beta: bool) -> None:
    url = server.url.replace("http", "ws", 1) + "/v1/realtime?intent=transcription"
    # Whatever came before, the session still answers: what is wrong in an event ends nothing.
    headers = {"OpenAI-Beta": "realtime=v1"} if is_beta else {}
    last = '{"type":"input_audio_buffer.clear"}'
    talk(url, frames, last, "input_audio_buffer.cleared", **headers)


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text(max_size=9),
        "language": st.sampled_from(["en", "", "de", "\0"]) | st.text(max_size=5),
        "response_format": st.sampled_from(["json", "srt", "verbose_json", "vtt", "text", "x"]),
        "timestamp_granularities[]": st.sampled_from(["word", "segment", ",", ""]),
        "stream": st.sampled_from(["true", "false", "", "1"]),
        "steps": st.sampled_from(["1", "0", "-1", "99", "x"]),
        "temperature": st.text(max_size=5),
    },
)


@CASES
@given(fields=FIELDS, data=st.data())
def test_openai_files(
    http: httpx.Client, bystander: str, voice: Any, fields: Any, data: Any
) -> None:
    wav = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data"
    good = wav + b"\xff\xff\xff\xff" + voice()[:8000]
    place, more = data.draw(st.integers(0, len(good))), data.draw(st.binary(max_size=40))
    file = data.draw(
        st.sampled_from([good, good[:place], good[:place] + more + good[place:], more])
    )
    answer = http.post("/v1/audio/transcriptions", files={"file": ("a.wav", file)}, data=fields)
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        assert answer.json()["error"]["type"] == "invalid_request_error"


@CASES
@given(
    body=st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | nearly({"session": GA["session"], "expires_after": {"seconds": 60}}).map(str.encode),
    path=st.sampled_from(["client_secrets", "transcription_sessions"]),
)
def test_openai_secrets(http: httpx.Client, bystander: str, body: bytes, path: str) -> None:
    answer = http.post(f"/v1/realtime/{path}", content=body)
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        assert answer.json()["error"]["message"]


# --- Vosk -----------------------------------------------------------------------------------------

CONFIG = {"config": {"sample_rate": 16000.0, "words": 1, "max_alternatives": 0, "phrase_list": []}}


@CASES
@given(
    frames=st.lists(
        AUDIO
        | st.text(max_size=30)
        | nearly(CONFIG)
        | st.sampled_from(['{"eof" : 1}', '{"reset" : 1}', json.dumps(CONFIG)]),
        max_size=8,
    ),
    path=st.sampled_from(["/", "/vosk", "/vosk/en", "/vosk/xx"]),
)
def test_vosk(server: Server, bystander: str, frames: Any, path: str) -> None:
    talk(server.url.replace("http", "ws", 1) + path, frames, '{"eof" : 1}', None)


# --- Wyoming --------------------------------------------------------------------------------------


def line(header: object, data: bytes = b"", payload: bytes = b"") -> bytes:
    return json.dumps(header).encode() + b"\n" + data + payload


FORMAT = {"rate": 16000, "width": 2, "channels": 1}
CHUNKS = st.builds(
    lambda payload, claims: line(
        {"type": "audio-chunk", "data": FORMAT, "payload_length": claims(len(payload))},
        payload=payload,
    ),
    AUDIO,
    st.sampled_from([lambda n: n, lambda n: n, lambda n: n - 1, lambda n: n + 9, lambda n: 10**9]),
)
WYOMING = st.one_of(
    st.binary(max_size=60),
    CHUNKS,
    JSON.map(line),
    nearly({"type": "audio-start", "data": FORMAT, "data_length": 0}).map(
        lambda text: text.encode() + b"\n"
    ),
    st.sampled_from(["describe", "ping", "transcribe", "audio-stop", "x"]).map(
        lambda kind: line({"type": kind})
    ),
    st.just(line({"type": "transcribe", "data": {"language": "en"}})),
)


@contextlib.contextmanager
def _let_close() -> Iterator[None]:
    """Let the server close the connection at any moment; let it not be silent."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise


@CASES
@given(pieces=st.lists(WYOMING, max_size=8))
def test_wyoming(wyoming: int, bystander: str, pieces: list[bytes]) -> None:
    with (
        _let_close(),
        sockets.create_connection(("127.0.0.1", wyoming), SECONDS) as client,
    ):
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(sockets.SHUT_WR)
        while client.recv(65_536):
            pass
    with sockets.create_connection(("127.0.0.1", wyoming), SECONDS) as client:
        client.sendall(line({"type": "describe"}))
        assert b'"info"' in client.recv(65_536)


# --- Deepgram, AssemblyAI, Speechmatics -----------------------------------------------------------

RAW_AUDIO = {"encoding": ["linear16", "mulaw", "opus", "flac"], "sample_rate": ["8000", "16000"]}
LIVE = parameters(
    **RAW_AUDIO,
    channels=["1", "2"],
    multichannel=["true", "False"],
    interim_results=["true"],
    endpointing=["false", "10", "500"],
    utterance_end_ms=["1000"],
    vad_events=["True"],
    punctuate=["true"],
    language=["en-US", "multi", "de"],
)
SAYS_LIVE = st.one_of(
    SOUNDS,
    st.text(max_size=30),
    JSON.map(json.dumps),
    nearly({"type": "Configure", "keyterms": ["a"], "features": {"numerals": True}}),
    st.sampled_from(["KeepAlive", "Finalize", "Configure", "x"]).map(
        lambda kind: json.dumps({"type": kind})
    ),
)


@CASES
@given(query=LIVE, frames=st.lists(SAYS_LIVE, max_size=8))
def test_deepgram_live(server: Server, bystander: str, query: str, frames: Any) -> None:
    last = '{"type":"CloseStream"}'
    talk_or_be_refused(server, f"/v1/listen?{query}", frames, last, {1000, 1008})


FLUX = parameters(
    **RAW_AUDIO,
    eot_threshold=["0.5", "0.9"],
    eager_eot_threshold=["0.3", "0.5"],
    eot_timeout_ms=["500", "5000"],
    language_hint=["en", "de"],
)
THRESHOLDS = {"eot_threshold": 0.7, "eager_eot_threshold": 0.5, "eot_timeout_ms": 5000}
SAYS_FLUX = st.one_of(
    SOUNDS,
    st.text(max_size=30),
    JSON.map(json.dumps),
    nearly({"type": "Configure", "thresholds": THRESHOLDS, "language_hints": ["en"]}),
    st.sampled_from(["KeepAlive", "ForceEndTurn", "Configure", "x"]).map(
        lambda kind: json.dumps({"type": kind})
    ),
)


@CASES
@given(query=FLUX, frames=st.lists(SAYS_FLUX, max_size=8))
def test_deepgram_turns(server: Server, bystander: str, query: str, frames: Any) -> None:
    last = '{"type":"CloseStream"}'
    talk_or_be_refused(server, f"/v2/listen?{query}", frames, last, {1000, 1008})


@CASES
@given(
    query=parameters(
        **RAW_AUDIO,
        channels=["1", "2"],
        language=["en", "de"],
        smart_format=["true"],
        utterances=["true"],
        multichannel=["true"],
    ),
    body=SOUNDS | JSON.map(lambda value: json.dumps(value).encode()),
    kind=st.sampled_from(["application/octet-stream", "audio/wav", "application/json", ""]),
)
def test_deepgram_files(
    http: httpx.Client, bystander: str, query: str, body: bytes, kind: str
) -> None:
    answer = http.post(f"/v1/listen?{query}", content=body, headers={"Content-Type": kind})
    assert answer.status_code in (200, 400)
    assert answer.json()["results" if answer.status_code == 200 else "err_msg"]


UPDATE = {"type": "UpdateConfiguration", "min_turn_silence": 400, "max_turn_silence": 1200}
SAYS_ASSEMBLYAI = st.one_of(
    SOUNDS,
    nearly(UPDATE | {"format_turns": True}),
    st.text(max_size=30),
    JSON.map(json.dumps),
    st.sampled_from(["KeepAlive", "ForceEndpoint", "x"]).map(
        lambda kind: json.dumps({"type": kind})
    ),
)


@CASES
@given(
    query=parameters(
        encoding=["pcm_s16le", "pcm_mulaw", "opus", "ogg_opus", "aac"],
        sample_rate=["8000", "16000"],
        format_turns=["True", "False"],
        min_turn_silence=["160"],
        max_turn_silence=["2400"],
        language_codes=['["en"]', "[", "[1]"],
        keyterms_prompt=['["a"]'],
    ),
    frames=st.lists(SAYS_ASSEMBLYAI, max_size=8),
)
def test_assemblyai(server: Server, bystander: str, query: str, frames: Any) -> None:
    last = '{"type":"Terminate"}'
    talk_or_be_refused(server, f"/v3/ws?{query}", frames, last, {1000, 3006, 4100, 4101})


RECOGNITION = {
    "message": "StartRecognition",
    "audio_format": {"type": "raw", "encoding": "pcm_s16le", "sample_rate": 16000},
    "transcription_config": {
        "language": "en",
        "enable_partials": True,
        "conversation_config": {"end_of_utterance_silence_trigger": 0.5},
    },
}
CHANGE = {"message": "SetRecognitionConfig", "transcription_config": {"language": "en"}}
SAYS_SPEECHMATICS = st.one_of(
    SOUNDS,
    nearly(CHANGE),
    nearly(RECOGNITION),
    st.text(max_size=30),
    JSON.map(json.dumps),
    st.sampled_from(["ForceEndOfUtterance", "GetSpeakers", "AddChannelAudio", "x"]).map(
        lambda kind: json.dumps({"message": kind})
    ),
)


@CASES
@given(
    first=st.just(json.dumps(RECOGNITION)) | nearly(RECOGNITION) | SAYS_SPEECHMATICS,
    frames=st.lists(SAYS_SPEECHMATICS, max_size=8),
)
def test_speechmatics(server: Server, bystander: str, first: Any, frames: Any) -> None:
    last = '{"message":"EndOfStream","last_seq_no":0}'
    talk_or_be_refused(server, "/v2", [first, *frames], last, {1000, 1002, 1003, 1008})
