"""What the recogniser asks of a network, the embedded one gives."""

from __future__ import annotations

import torch

from stream_server.recogniser.denoise import StepInput, random_tokens
from stream_server.recogniser.model import TranscriptionModel
from stream_server.recogniser.network import Network, TextCodec
from stream_server.recogniser.tokenizer import Tokenizer


@torch.inference_mode()
def test_the_embedded_network_hears_and_steps(
    model: TranscriptionModel, tokenizer: Tokenizer
) -> None:
    network: Network = model
    codec: TextCodec = tokenizer
    languages = torch.tensor([codec.language("en"), codec.language(None)])
    pcm = torch.randn(2, 16_000) * 0.1
    cache, frames = network.hear(pcm, torch.tensor([16_000, 9_000]), languages)
    assert cache.lengths.shape == (2,)
    assert len(frames) == 2
    assert all(0 < token < network.vocabulary for token in frames[0].draft())
    spans = frames[0].align(codec.encode("one"))
    assert spans is not None
    assert spans[-1].end * network.samples_per_ctc_frame >= 0
    chances = (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    canvas = torch.stack([random_tokens(chance, 16, network.vocabulary) for chance in chances])
    left = torch.zeros(2, 16, network.conditioning_size)
    heat = torch.tensor([0.8, 0.8])
    result = network.step(StepInput(canvas, (16, 12), left, (False, False), heat, chances), cache)
    assert result.canvas.shape == result.argmax.shape == (2, 16)
    assert result.conditioning.shape == left.shape
    assert not result.accepted[1, 12:].any()
