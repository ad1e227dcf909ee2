"""The server of random weights: its options, and a toy of it that transcribes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stream_server.config import RecogniserConfig
from stream_server.errors import ConfigError
from stream_server.evaluation.random_server import NumberCodec, load_random, parse
from stream_server.recogniser.interface import Utterance

WHISPER = {
    "d_model": 24,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "num_mel_bins": 80,
}


def test_canvases_are_as_long_as_the_audio_and_take_every_step(toy_decoder: dict[str, Any]) -> None:
    text = {**toy_decoder, "vocab_size": 400}
    torch.manual_seed(0)
    recogniser = load_random(RecogniserConfig(device="cpu", steps=3), None, text, WHISPER)
    hum = np.random.default_rng(0).standard_normal(6 * 16_000).astype(np.float32) * 0.1
    said = [Utterance(hum, steps=3, seed=1), Utterance(hum[:9_000], steps=3, seed=2)]
    rows = recogniser.start(said)
    assert [len(row.canvas) for row in rows] == [64, 32]
    # A prompt is text and so much of the audio's window as its audio and a second take.
    assert [int(row.cache.lengths) for row in rows] == [21 + 44, 21 + 10]
    for step in range(1, 4):
        hypotheses = recogniser.step(rows)
        assert [each.is_final for each in hypotheses] == [step == 3] * 2
    assert any(hypothesis.words for hypothesis in hypotheses)


def test_numbers_are_words() -> None:
    codec = NumberCodec(400)
    assert codec.encode(" 5 17") == [5, 17]
    assert codec.words([5, 17]) == [(" 5", [0]), (" 17", [1])]
    assert {0, 16, 384} < codec.ends
    assert codec.language("de") == 0


def test_options_are_those_of_serve() -> None:
    config = parse(["--port", "0", "--kernels", "plain", "--max-sessions", "300"])
    assert (config.listen.port, config.recogniser.kernels) == (0, "plain")
    assert config.limits.max_sessions == 300


@pytest.mark.parametrize("arguments", [["--port"], ["--nothing", "1"], ["--kernels", "magic"]])
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse(arguments)
