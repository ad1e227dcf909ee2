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


def run(code: str, **environ: str) -> None:
    """Run code that compares kernels with ``plain``; what it asserts must hold."""
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + code],
        env={**os.environ, **path, **environ}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def interpret() -> Callable[[str], None]:
    """Runs code in the interpreter; see :func:`run`."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; it comes with PyTorch for CUDA")
    return lambda code: run(code, TRITON_INTERPRET="1")


@pytest.fixture
def on_gpu() -> Callable[[str], None]:
    """Runs code on a GPU, compiled."""
    return run
