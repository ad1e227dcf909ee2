"""Which implementation is picked where."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch

from stream_server.recogniser.kernels import plain
from stream_server.recogniser.kernels.choice import (
    Kernels,
    fused_kernels,
    grouped_kernels,
    pick_kernels,
    plain_kernels,
)


def test_the_cpu_gets_plain_pytorch() -> None:
    picked = pick_kernels(torch.device("cpu"))
    assert picked.name == "plain"
    assert picked.run_experts is plain.run_experts


def test_grouped_differs_in_the_experts_alone() -> None:
    usual, grouped = plain_kernels(), grouped_kernels()
    differ = [
        name
        for name in Kernels.__dataclass_fields__
        if getattr(usual, name) is not getattr(grouped, name)
    ]
    assert sorted(differ) == ["name", "run_experts"]


@pytest.mark.parametrize(
    ("capability", "has_triton", "name"),
    [((7, 5), True, "plain"), ((8, 0), False, "grouped"), ((9, 0), False, "grouped")],
)
def test_a_gpu_gets_what_it_can_run(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has_triton: bool, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if has_triton else None)
    assert pick_kernels(torch.device("cuda")).name == name


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="Triton is installed")
def test_without_triton_there_are_no_fused_kernels() -> None:
    with pytest.raises(ImportError):
        fused_kernels()


@pytest.mark.parametrize("is_beside", [False, True])
def test_a_whole_step_is_the_same_with_fused_kernels(
    interpret: Callable[[str], None], is_beside: bool
) -> None:
    """Also where canvases and prompts are in units, and prompts are run within the first step."""
    interpret(
        f"is_beside = {is_beside}"
        + """
import copy
from stream_server.recogniser.backbone import random_gemma
from stream_server.recogniser.denoise import SamplerConfig
from stream_server.recogniser.denoiser import Denoiser
from stream_server.recogniser.kernels.choice import fused_kernels, plain_kernels
options = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, global_head_dim=32, num_global_key_value_heads=1,
    sliding_window=1024, num_experts=8, top_k_experts=2, moe_intermediate_size=16,
    max_position_embeddings=1024, vocab_size=300,
    layer_types=["sliding_attention", "full_attention"],
)
model = random_gemma(options, torch.device("cpu"), torch.float32)
for parameter in model.parameters():
    if parameter.ndim >= 2:
        parameter.data.mul_(8)
with torch.inference_mode():
    prompt, canvas = torch.randn(2, 9, 32), torch.randint(300, (2, 8))
    results = []
    for kernels in (plain_kernels(), fused_kernels()):
        sampler = SamplerConfig(entropy_bound=3.0)
        unit = 4 if is_beside else 8
        denoiser = Denoiser(copy.deepcopy(model), kernels, sampler, 3, 24, 8, unit=unit)
        slots, state = torch.tensor([2, 0]), denoiser.slots
        prompts = None
        if is_beside:
            state.heard[slots, :9] = prompt
            prompts = torch.tensor([2, 2, 2, 0, 0]), torch.tensor([0, 1, 2, 0, 1])
        else:
            denoiser.prefill(prompt, torch.tensor([9, 6]), slots)
        state.prompts[slots], state.widths[slots] = torch.tensor([9, 6]), torch.tensor([8, 5])
        state.canvas[slots], state.heat[slots] = canvas, 0.7
        for _ in range(2):
            state.seeds.add_(1)
            outcome = denoiser.step(*denoiser.units(slots, 8), prompts)
            prompts = None
        results.append((outcome, state))
    (plain_outcome, plain_state), (fused_outcome, fused_state) = results
    for row, size in enumerate((8, 5)):
        for name in ("argmax", "accepted"):
            both = (getattr(each, name) for each in (fused_outcome, plain_outcome))
            got, wanted = (each.view(2, 8) for each in both)
            assert got[row, :size].tolist() == wanted[row, :size].tolist(), name
        got, wanted = (each.entropy.view(2, 8) for each in (fused_outcome, plain_outcome))
        close(got[row, :size], wanted[row, :size], 1e-3)
        slot = int(slots[row])
        assert fused_state.canvas[slot, :size].tolist() == plain_state.canvas[slot, :size].tolist()
        close(fused_state.soft[slot, :size], plain_state.soft[slot, :size], 1e-3)
"""
    )
