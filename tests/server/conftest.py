"""Sound for the tests of whole files, and the sizes of a toy decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.wav import to_wav


@pytest.fixture(scope="session")
def speech() -> Callable[..., bytes]:
    """Makes a WAV file with bursts of something like speech, silence before and after each."""

    def make(*seconds: float) -> bytes:
        parts = [np.zeros(8000)]
        for number, length in enumerate(seconds):
            t = np.arange(int(16000 * length)) / 16000
            pitch = 130 + 20 * number
            voice = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 12))
            parts += [voice * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)) * 0.15, np.zeros(16000)]
        samples = np.concatenate(parts)
        samples += np.random.default_rng(0).normal(0, 1e-4, len(samples))
        return to_wav((samples * 32767).astype("<i2").tobytes())

    return make


@pytest.fixture(scope="session")
def toy_decoder() -> dict[str, Any]:
    """Options of a decoder with both kinds of layer, and fewer heads of keys than of queries.

    Its vocabulary, ``vocab_size``, is left to each.
    """
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 32,
        "num_global_key_value_heads": 1,
        "sliding_window": 1024,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
        "max_position_embeddings": 1024,
        "layer_types": ["sliding_attention", "full_attention"],
    }
