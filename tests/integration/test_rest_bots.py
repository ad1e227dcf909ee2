"""Meeting bots that send what each participant said by REST, with the requests that they make.

Vexa's bot has a window for each speaker (``transcription-client.ts``), Attendee an utterance for
each pause (``process_utterance_task.py``). The bots themselves need a meeting and a browser.
"""

from __future__ import annotations

import io
from typing import Any

import av
import httpx
import numpy as np
import pytest

from tests.wav import to_wav

RATE = 16_000


def cut(track: bytes, turn: Any) -> bytes:
    """What a bot's voice activity detection would cut out of a track."""
    return track[max(0, turn.start - RATE // 4) * 2 : (turn.end + RATE // 2) * 2]


def mp3(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", "mp3") as container:
        stream = container.add_stream("mp3", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), "s16", "mono")
        frame.sample_rate = RATE
        for piece in av.AudioResampler("s16p", "mono", RATE, 1152).resample(frame):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return file.getvalue()


def by_vexa(http: httpx.Client, pcm: bytes, prompt: str) -> dict[str, Any]:
    """Do what ``TranscriptionClient.sendRequest`` does; return what it reads of the answer."""
    fields = {
        "model": "whisper-1",
        "response_format": "verbose_json",
        "language": "en",
        "timestamp_granularities": "word",
        "max_speech_duration_s": "15",
        "min_silence_duration_ms": "160",
        "prompt": prompt,
    }
    files = {"file": ("audio.wav", to_wav(pcm), "audio/wav")}
    headers = {"Authorization": "Bearer sesame"}
    answer = http.post("/v1/audio/transcriptions", data=fields, files=files, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.model
@pytest.mark.speech
def test_vexa(hearing, conversation, alone) -> None:
    heard: dict[str, list[str]] = {name: [] for name in conversation.tracks}
    with httpx.Client(base_url=hearing.url, timeout=60) as http:  # TRANSCRIPTION_SERVICE_URL
        for turn in conversation.turns:
            said = heard[turn.speaker]
            pcm = cut(conversation.tracks[turn.speaker], turn)
            result = by_vexa(http, pcm, " ".join(said))
            assert result["language"] == "en"
            assert result["duration"] == pytest.approx(len(pcm) / 2 / RATE, abs=0.01)
            for segment in result["segments"]:
                assert segment["text"].split() == [word["word"] for word in segment["words"]]
                assert 0 <= segment["start"] < segment["end"] <= result["duration"] + 0.1
                assert segment["avg_logprob"] <= 0
                for word in segment["words"]:
                    assert segment["start"] <= word["start"] <= word["end"]
                    assert 0 <= word["probability"] <= 1
                said.append(segment["text"])
    for name, texts in heard.items():
        # A bot cuts elsewhere than the server would.
        allowed = conversation.errors(name, alone[name]) + 1
        assert conversation.errors(name, " ".join(texts)) <= allowed, (name, texts)


@pytest.mark.model
@pytest.mark.speech
def test_attendee(hearing, conversation, alone) -> None:
    heard: dict[str, list[str]] = {name: [] for name in conversation.tracks}
    with httpx.Client(base_url=f"{hearing.url}/v1", timeout=60) as http:  # OPENAI_BASE_URL
        for turn in conversation.turns:
            pcm = cut(conversation.tracks[turn.speaker], turn)
            files = {
                "file": ("file.mp3", mp3(pcm), "audio/mpeg"),
                "model": (None, "gpt-4o-transcribe"),
                "language": (None, "en"),
                "response_format": (None, "json"),
            }
            headers = {"Authorization": "Bearer sesame"}
            answer = http.post("/audio/transcriptions", files=files, headers=headers)
            assert answer.status_code == 200, answer.text
            heard[turn.speaker].append(answer.json()["text"])
    for name, texts in heard.items():
        # MP3 is other audio, too.
        allowed = conversation.errors(name, alone[name]) + 2
        assert conversation.errors(name, " ".join(texts)) <= allowed, (name, texts)
