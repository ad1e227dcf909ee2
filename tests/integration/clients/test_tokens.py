"""Tokens as the packages of Deepgram, AssemblyAI, Speechmatics and OpenAI ask for and use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_server.config import WebConfig
from stream_server.tls import make_self_signed


@pytest.mark.parametrize("api", ["deepgram", "assemblyai", "speechmatics"])
def test_a_session_with_a_token_alone(running, run_client, tmp_path: Path, voice, api: str) -> None:
    certificate, audio = tmp_path / "certificate.pem", tmp_path / "turns.pcm"
    certificate.write_bytes(make_self_signed("127.0.0.1"))
    audio.write_bytes(voice() * 2 + bytes(32_000))
    web = WebConfig(tls_cert=str(certificate), tls_key=str(certificate))
    with running(keys=("sesame",), web=web) as server:
        arguments = ("tokens.txt", "run_tokens.py", server.url, str(audio), api)
        (shown,) = run_client(*arguments, SSL_CERT_FILE=str(certificate))
    assert len(shown["texts"]) == 2


def test_a_session_with_a_client_secret_alone(running, run_client, tmp_path: Path, voice) -> None:
    samples = np.frombuffer(voice(), "<i2")
    audio = tmp_path / "turns.pcm"
    audio.write_bytes(np.repeat(samples, 3)[::2].astype("<i2").tobytes())  # at 24 kHz
    with running(keys=("sesame",)) as server:
        arguments = ("openai.txt", "run_openai_secret.py", server.url, str(audio))
        (shown,) = run_client(*arguments)
    assert len(shown["texts"]) == 1
    assert shown["texts"][0].split()
