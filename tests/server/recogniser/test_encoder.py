"""Both encoders say how many states are real, and padding reaches none of those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stream_server.recogniser.encoder import (
    ConformerAudioEncoder,
    Tap,
    WhisperAudioEncoder,
    build_encoder,
)

LONGEST = 40
WHISPER = {
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 80,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "vocab_size": 100,
}


@pytest.fixture(scope="module")
def conformer(
    conformer_options: dict[str, Any], enliven: Callable[[nn.Module], None]
) -> ConformerAudioEncoder:
    encoder = ConformerAudioEncoder(conformer_options).eval()
    enliven(encoder)
    return encoder


def features(*frames: int) -> tuple[Tensor, Tensor]:
    """Rows of features, zero behind their ends as ``LogMel`` gives them."""
    values = torch.randn(len(frames), max(frames), 80)
    for row, count in enumerate(frames):
        values[row, count:] = 0
    return values, torch.tensor(frames)


@torch.no_grad()
def test_the_counts_agree_with_the_shapes(conformer: ConformerAudioEncoder) -> None:
    values, frames = features(*range(1, LONGEST + 1))
    together, counts = conformer(values, frames)
    assert together.shape == (LONGEST, int(counts.max()), conformer.hidden_size)
    for row, length in enumerate(frames.tolist()):
        alone, count = conformer(values[row : row + 1, :length], torch.tensor([length]))
        assert count.tolist() == [alone.shape[1]] == counts[row : row + 1].tolist()


@torch.no_grad()
def test_a_row_alone_gives_the_same_states(conformer: ConformerAudioEncoder) -> None:
    values, frames = features(*range(1, LONGEST + 1))
    together, _ = conformer(values, frames)
    for row, length in enumerate(frames.tolist()):
        alone, _ = conformer(values[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_padding_reaches_no_state(conformer: ConformerAudioEncoder) -> None:
    values, frames = features(*range(1, LONGEST + 1))
    clean, counts = conformer(values, frames)
    behind = torch.arange(LONGEST) >= frames[:, None]
    dirty, _ = conformer(values.masked_fill(behind[..., None], 1000.0), frames)
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(dirty[row, :count], clean[row, :count], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_state_stands_for_forty_milliseconds(conformer: ConformerAudioEncoder) -> None:
    _, counts = conformer(*features(400))
    assert conformer.hop == 640
    assert int(counts) * conformer.hop == 400 * 160


@torch.no_grad()
def test_weights_for_training_let_the_sound_through(conformer_options: dict[str, Any]) -> None:
    encoder = ConformerAudioEncoder(conformer_options).eval()
    values, frames = features(100)
    mask = torch.ones(1, 100, dtype=torch.bool)
    before = encoder.encoder.subsampling(values, mask).std(dim=1).mean()
    encoder.scale_for_training()
    after = encoder.encoder.subsampling(values, mask).std(dim=1).mean()
    assert after > 10 * before
    states, _ = encoder(values, frames)
    assert states.isfinite().all()


@torch.no_grad()
def test_whisper_gives_fifteen_hundred_states_to_every_row() -> None:
    encoder = WhisperAudioEncoder(WHISPER).eval()
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.scale_for_training()
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())
    states, counts = encoder(torch.randn(2, 3000, 80), torch.tensor([3000, 3000]))
    assert states.shape == (2, 1500, 32)
    assert counts.tolist() == [1500, 1500]
    assert encoder.hidden_size == 32
    assert encoder.hop * 1500 == 30 * 16_000


def test_an_encoder_is_built_by_its_kind(conformer_options: dict[str, Any]) -> None:
    assert isinstance(build_encoder("conformer", conformer_options), ConformerAudioEncoder)
    assert isinstance(build_encoder("whisper", WHISPER), WhisperAudioEncoder)
    with pytest.raises(ValueError, match="'wav2vec2': allowed are 'conformer' and 'whisper'"):
        build_encoder("wav2vec2", {})


@torch.no_grad()
def test_a_tap_gives_what_its_layer_gave_last_once(conformer: ConformerAudioEncoder) -> None:
    last = Tap(conformer, len(conformer.layers) - 1)
    with pytest.raises(RuntimeError, match="has not run"):
        last.take()
    features, frames = torch.randn(2, LONGEST, 80), torch.tensor([LONGEST, 20])
    conformer(features, frames)
    states, _ = conformer(features[:1], frames[:1])
    assert torch.equal(last.take(), states)
    with pytest.raises(RuntimeError, match="has not run"):
        last.take()
