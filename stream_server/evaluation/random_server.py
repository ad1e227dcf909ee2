"""A server of the published system at full size with random weights: what load is measured on.

    python -m stream_server.evaluation.random_server --port 0 --kernels auto

Takes the options of ``stream-server serve``; those that name a model are not read. What it says is
noise, but it takes the time that the real weights would: canvases and prompts as long as the audio
wants them, every step of a final, and an end of text about where one is.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from stream_server.config import Config, RecogniserConfig, from_environment, options
from stream_server.errors import ConfigError
from stream_server.progress import Progress
from stream_server.recogniser.backbone import FULL_SIZE, random_backbone
from stream_server.recogniser.checkpoint import pick_device
from stream_server.recogniser.device_model import speed_up
from stream_server.recogniser.encoder import WhisperAudioEncoder
from stream_server.recogniser.model import CanvasConfig
from stream_server.recogniser.projector import ProjectorConfig
from stream_server.recogniser.published import PublishedConfig, PublishedModel
from stream_server.recogniser.recogniser import DiffusionRecogniser
from stream_server.server import Ready, build

WHISPER_SMALL: Mapping[str, Any] = {
    "d_model": 768,
    "encoder_layers": 12,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "num_mel_bins": 80,
}
PROMPT = (tuple(range(2, 8)), tuple(range(8, 23)))
"""Tokens before and after the audio: as many as the chat template has, about."""
CANVASES = CanvasConfig(buckets=(32, 64), tokens_per_second=15.6, margin=0)
"""7.8 places a second: up to 4.1 s of speech get 32, longer ones 64. Random CTC can ask for no more
(a token in each frame, 6.25 a second, and a quarter more), so it is the audio that says it; 4
tokens a second and the usual margin come to 4.8 s in 32 places."""
SILENCE = 1.0
"""Seconds of silence that a prompt keeps: prompts as long as the audio, so 60 positions and not 209
for 5 s. It is not what the published adapter was trained on, as far as anybody knows."""
END_EVERY = 16
"""One token of so many ends a text, so that few canvases of noise are without an end."""


class NumberCodec:
    """Tokens as numbers."""

    def __init__(self, vocabulary: int) -> None:
        self.ends = frozenset(range(0, vocabulary, END_EVERY))

    def language(self, language: str | None) -> int:
        """Return the one prompt there is."""
        return 0

    def encode(self, text: str) -> list[int]:
        """Return the numbers in ``text``."""
        return [int(word) for word in text.split()]

    def piece(self, token: int) -> str:
        """Return a number."""
        return f" {token}"

    def words(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Return a word for each token."""
        return [(f" {token}", [place]) for place, token in enumerate(tokens)]


def load_random(
    config: RecogniserConfig,
    report: Callable[[str, int, int], None] | None = None,
    text: Mapping[str, Any] = FULL_SIZE,
    whisper: Mapping[str, Any] = WHISPER_SMALL,
) -> DiffusionRecogniser:
    """Build a recogniser of random weights.

    Args:
        config: device, kernels, weights and steps.
        report: told of what takes long.
        text: configuration of the backbone.
        whisper: configuration of the audio encoder.
    """
    device = pick_device(config.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    backbone = random_backbone(text, device, dtype)
    encoder = WhisperAudioEncoder(dict(whisper)).to(device=device, dtype=dtype)
    projector = ProjectorConfig(whisper["d_model"], text["hidden_size"] // 2, text["hidden_size"])
    shape = PublishedConfig("random", projector, canvas=CANVASES, silence_seconds=SILENCE)
    model = PublishedModel(shape, encoder, backbone, [PROMPT]).to(device).eval()
    network = speed_up(model, device, config, report)
    return DiffusionRecogniser(network, NumberCodec(model.vocabulary), device, config.steps)


def parse(arguments: Sequence[str]) -> Config:
    """Read ``--option value`` pairs.

    Raises:
        ConfigError: one is unknown, without a value, or wrong.
    """
    known = {option.flag: option.name for option in options()}
    unknown = [flag for flag in arguments[::2] if flag not in known]
    if unknown or len(arguments) % 2:
        raise ConfigError("options", " ".join(arguments), "pairs of --option and value of serve")
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return from_environment({known[flag]: value for flag, value in pairs})


def main(arguments: Sequence[str]) -> None:
    """Serve until interrupted."""
    config = parse(arguments)
    progress = Progress("building a model of random weights")

    def announce(ready: Ready) -> None:
        progress.stop()
        print(f"diffscribe (random weights) ready on {ready.url}", flush=True)

    with progress:
        build(config, functools.partial(load_random, report=progress.report)).run(announce)


if __name__ == "__main__":
    main(sys.argv[1:])


__all__ = [
    "CANVASES",
    "END_EVERY",
    "PROMPT",
    "SILENCE",
    "WHISPER_SMALL",
    "NumberCodec",
    "load_random",
    "main",
    "parse",
]
