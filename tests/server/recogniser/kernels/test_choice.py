"""Which implementation is picked where."""

from __future__ import annotations

import importlib.util

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
