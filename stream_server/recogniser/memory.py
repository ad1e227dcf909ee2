"""Memory of GPUs: how much of it this process holds, and how numbers get there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gpu_memory() -> int:
    """Return the bytes that are reserved on every GPU; 0 where there is none in use."""
    if not torch.cuda.is_available():
        return 0
    return sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))


def send(numbers: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return whole numbers on ``device``, int64, without waiting for what it is doing.

    ``torch.tensor(numbers, device=device)`` waits for all that its stream was given before: so the
    host would launch nothing while a step or an encoder runs.
    """
    host = torch.tensor(numbers, dtype=torch.long)
    if device.type != "cuda" or not host.numel():
        return host.to(device)
    # The allocator keeps pinned memory until the copy is done.
    return host.pin_memory().to(device, non_blocking=True)


__all__ = ["gpu_memory", "send"]
