"""Memory of GPUs: how much of it this process holds, and how numbers get there and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    return ship(torch.tensor(numbers, dtype=torch.long), device)


def ship(host: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host's on ``device``, without waiting; on a CPU it is the same."""
    if device.type != "cuda" or not host.numel():
        return host.to(device)
    # The allocator keeps pinned memory until the copy is done.
    return host.pin_memory().to(device, non_blocking=True)


def fetch(tensors: Sequence[Tensor]) -> Callable[[], Sequence[Tensor]]:
    """Begin to copy tensors of one device to the host; what is returned waits for that alone.

    So the device may be given more to do before anybody waits. On a CPU they are what they were.
    """
    device = tensors[0].device
    if device.type != "cuda":
        return lambda: tensors
    # Pinned, as these do not wait.
    copies = [each.to("cpu", non_blocking=True) for each in tensors]
    done = torch.cuda.current_stream(device).record_event()

    def wait() -> Sequence[Tensor]:
        done.synchronize()
        return copies

    return wait


__all__ = ["fetch", "gpu_memory", "send", "ship"]
