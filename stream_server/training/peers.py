"""Several devices train one network: each by itself for some updates, then all take the mean.

Local SGD (Stich, 2018, arXiv 1805.09767; Lin et al., 2018, arXiv 1808.07217): updates stay single
captured graphs, since nothing is exchanged inside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """Which of the processes of a run this one is."""

    place: int = 0
    count: int = 1
    meeting: str = "tcp://127.0.0.1:29411"
    """Where they find each other: an ``init_method`` of ``torch.distributed``."""
    every: int = 4
    """Updates between means."""


class Peers(Protocol):
    """What a run needs of the others that train the same network."""

    def meet(self, step: int, tensors: Sequence[Tensor], is_over: bool) -> bool:
        """Take the mean of ``tensors`` over all, in place, if it is time for it.

        Args:
            step: updates made; the same for all.
            tensors: of the network.
            is_over: whether the run is over for this one.

        Returns:
            Whether the run is over for all: it ends for all at the same update.
        """


class Alone:
    """A run of one process."""

    def meet(self, step: int, tensors: Sequence[Tensor], is_over: bool) -> bool:
        """See :meth:`Peers.meet`."""
        return is_over


class Group:
    """The processes of a run, one a device.

    Raises:
        RuntimeError: the others were not found (``torch.distributed``).
    """

    def __init__(self, config: PeerConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._flat: Tensor | None = None
        backend = "nccl" if device.type == "cuda" else "gloo"
        options: dict[str, Any] = {}
        if device.type == "cuda":  # NCCL wants to know which; "cuda" is the first
            options["device_id"] = torch.device("cuda", device.index or 0)
        dist.init_process_group(
            backend,
            init_method=config.meeting,
            rank=config.place,
            world_size=config.count,
            **options,
        )

    @torch.no_grad()
    def meet(self, step: int, tensors: Sequence[Tensor], is_over: bool) -> bool:
        """See :meth:`Peers.meet`."""
        if step % self._config.every:
            return False
        if self._flat is None:
            size = sum(tensor.numel() for tensor in tensors)
            self._flat = torch.empty(size + 1, device=self._device)
        views = torch.split(self._flat[:-1], [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(views), [tensor.flatten() for tensor in tensors])
        self._flat[-1] = float(is_over)
        dist.all_reduce(self._flat)
        self._flat /= self._config.count
        torch._foreach_copy_(
            list(tensors), [v.view_as(t) for v, t in zip(views, tensors, strict=True)]
        )
        return bool(self._flat[-1] > 0)

    def leave(self) -> None:
        """End what connects this process to the others."""
        dist.destroy_process_group()


__all__ = ["Alone", "Group", "PeerConfig", "Peers"]
