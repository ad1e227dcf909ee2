"""A network of the real shape and a toy size, with weights that make every part matter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from stream_server.recogniser.model import CanvasConfig, ModelConfig, TranscriptionModel
from stream_server.recogniser.projector import ProjectorConfig
from stream_server.recogniser.support import GuardConfig
from stream_server.recogniser.tokenizer import Tokenizer

SENTENCES = (
    "zero one two three four five six seven eight nine",
    "the quick brown fox jumps over the lazy dog",
    "don't you think that it's the same old song",
)


@pytest.fixture(autouse=True)
def _quiet_torch() -> Iterator[None]:
    """One thread, and the same random numbers whichever tests ran before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Knows the letters and some words."""
    return Tokenizer.train(SENTENCES, 64)


@pytest.fixture(scope="session")
def decoder_options(tokenizer: Tokenizer) -> dict[str, Any]:
    """Of a decoder with both kinds of layer, and fewer heads of keys than of queries."""
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
        "vocab_size": tokenizer.size,
    }


@pytest.fixture(scope="session")
def conformer_options() -> dict[str, Any]:
    """Of a small Fast Conformer."""
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_kernel_size": 5,
        "subsampling_factor": 4,
        "subsampling_conv_channels": 8,
        "num_mel_bins": 80,
        "scale_input": True,
        "layerdrop": 0.0,
        "dropout": 0.1,
    }


@pytest.fixture(scope="session")
def config(decoder_options: dict[str, Any], conformer_options: dict[str, Any]) -> ModelConfig:
    """The toy network."""
    return ModelConfig(
        name="toy",
        languages=("en",),
        encoder_kind="conformer",
        encoder=conformer_options,
        projector=ProjectorConfig(32, 32, 32, halvings=2, norm=True),
        decoder=decoder_options,
        experts="dense",
        ctc_parts=4,
        canvas=CanvasConfig(buckets=(16, 32, 48)),
        # Weights by chance support nothing.
        guard=GuardConfig(0, 0),
    )


@pytest.fixture(scope="session")
def enliven() -> Callable[[nn.Module], None]:
    """Draws weights so large that whatever reaches an output it should not is seen there."""

    def draw(module: nn.Module, seed: int = 1) -> None:
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.ndim >= 2:
                    experts = "experts" in name
                    inputs = parameter.shape[-1] if experts else math.prod(parameter.shape[1:])
                    parameter.normal_(std=inputs**-0.5, generator=chance)
                else:
                    parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.1)
            for name, buffer in module.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.3, generator=chance)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0, generator=chance)

    return draw


@pytest.fixture(scope="session")
def make_model(
    config: ModelConfig, enliven: Callable[[nn.Module], None]
) -> Callable[..., TranscriptionModel]:
    """Builds a network; fields of the configuration may be given."""

    def make(**changes: Any) -> TranscriptionModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = TranscriptionModel(replace(config, **changes)).eval()
        enliven(model)
        return model

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., TranscriptionModel]) -> TranscriptionModel:
    """One network for all tests that leave it as it is."""
    return make_model()
