"""Triton's kernels in its interpreter, which is chosen before Triton is imported: by subprocess."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

PREPARE = """
import torch
from stream_server.recogniser.kernels import plain
from stream_server.recogniser.kernels.plain import Place, Rotary
from stream_server.recogniser.quantise import Float8
torch.manual_seed(0)
def close(got, wanted, tolerance=2e-5):
    error = float((got.double() - wanted.double()).norm() / wanted.double().norm())
    assert error < tolerance, error
"""


@pytest.fixture
def interpret() -> Callable[[str], None]:
    """Runs code that compares kernels with ``plain``; what it asserts must hold."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; it comes with PyTorch for CUDA")

    def run(code: str) -> None:
        environ = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", PREPARE + code], env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run
