"""What Triton computes is what PyTorch does: interpreted on the CPU, and compiled on a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

COMPARISON = Path(__file__).with_name("ctc_comparison.py")


def differences(device: str, **environment: str) -> list[dict[str, float]]:
    """Run the comparison and return what it prints for each shape."""
    done = subprocess.run(
        [sys.executable, str(COMPARISON), device],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: it comes with PyTorch's CUDA builds alone",
)
def test_interpreted_kernels_agree_with_pytorch() -> None:
    found = differences("cpu", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert len(found) == 3
    for each in found:
        assert each["loss"] < 1e-3
        assert each["gradient"] < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_compiled_kernels_agree_with_pytorch() -> None:
    found = differences("cuda")
    assert len(found) == 6
    for each in found:
        assert each["loss"] < 1e-2, "nats, of up to some thousand"
        assert each["gradient"] < 1e-3
