"""Memory of the GPUs that this process holds."""

from __future__ import annotations

import torch


def gpu_memory() -> int:
    """Return the bytes that are reserved on every GPU; 0 where there is none in use."""
    if not torch.cuda.is_available():
        return 0
    return sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))


__all__ = ["gpu_memory"]
