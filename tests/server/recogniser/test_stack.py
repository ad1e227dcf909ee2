"""The layers as the step runs them are transformers' own, in either half."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from stream_server.recogniser.kernels.choice import plain_kernels
from stream_server.recogniser.kernels.plain import Place
from stream_server.recogniser.quantise import Float8
from stream_server.recogniser.stack import KeyValues, Stack, quantise_layers


@pytest.fixture
def model(published_folders: Any) -> Any:
    """transformers' own, of both kinds of layer."""
    model = copy.deepcopy(published_folders.model)
    model.set_experts_implementation("eager")
    return model.eval()


@pytest.fixture
def build(model: Any) -> Callable[[Any], Stack]:
    """Reads a half."""
    return lambda half: Stack(half, model.config.text_config, plain_kernels(), 64)


@torch.inference_mode()
def test_prompts_of_different_lengths(model: Any, build: Callable[[Any], Stack]) -> None:
    half = model.model.encoder.language_model
    stack = build(half)
    cache = KeyValues.allocate(stack.layers, 4, 64)
    embeddings = torch.randn(2, 9, 32)
    lengths, slots = torch.tensor([9, 5]), torch.tensor([2, 0])
    place = Place(2, 9, 0, slots, torch.zeros_like(lengths), lengths, True)
    got = stack.run(embeddings.reshape(18, 32), cache, place).view(2, 9, 32)
    for row, length in enumerate((9, 5)):
        past = DynamicCache()
        wanted = half(inputs_embeds=embeddings[row : row + 1, :length], past_key_values=past)
        torch.testing.assert_close(
            got[row, :length], wanted.last_hidden_state[0], rtol=1e-3, atol=1e-4
        )
        for pair, layer in zip(cache.pairs, past.layers, strict=True):
            for own, theirs in zip(pair, (layer.keys, layer.values), strict=True):
                torch.testing.assert_close(
                    own[slots[row], :, :length], theirs[0], rtol=1e-3, atol=1e-4
                )


@torch.inference_mode()
def test_float8_is_near_and_shared_by_both_halves(
    model: Any, build: Callable[[Any], Stack]
) -> None:
    stacks = build(model.model.encoder.language_model), build(model.model.decoder)
    cache = KeyValues.allocate(stacks[1].layers, 1, 64)
    hidden = torch.randn(12, 32)
    zero = torch.zeros(1, dtype=torch.long)
    place = Place(1, 12, 0, zero, zero, zero + 12, False)
    exact = stacks[1].run(hidden, cache, place)
    quantise_layers(stacks, ("experts_in", "experts_out", "qkv", "output", "gate_up", "down"))
    rough = stacks[1].run(hidden, cache, place)
    error = float((rough - exact).norm() / exact.norm())
    assert 0.001 < error < 0.5
    first, second = (stack.layers[0].experts_in for stack in stacks)
    assert isinstance(first, Float8)
    assert first is second
    assert isinstance(stacks[0].layers[0].qkv.weight, Float8)
