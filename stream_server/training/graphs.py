"""Updates as CUDA graphs: one launch instead of ten thousand.

A small network on a large GPU is bound by launches: eager, the GPU is idle half of the time
(training/LOG.md). Batches have few shapes, so each is captured once and replayed. Where there is
no CUDA device the same function is called as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stream_server.training.corpus import Batch, Shape
from stream_server.training.losses import Depth

Losses = dict[str, Tensor]
Gradients = Callable[[Batch, Depth], Losses]


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: Any
    batch: Batch
    losses: Losses


class GraphedGradients:
    """Computes gradients of a batch, from a graph where there is one.

    Args:
        compute: adds to the gradients, in place, and returns the losses; must not wait for the
            device, and must read nothing that changes between calls but the batch and the weights.
        device: where it runs.
    """

    def __init__(self, compute: Gradients, device: torch.device) -> None:
        self._compute = compute
        self._is_cuda = device.type == "cuda"
        self._captured: dict[tuple[Shape, Depth], _Captured] = {}
        self._pool: Any = None

    def __call__(self, shape: Shape, batch: Batch, depth: Depth) -> Losses:
        """Return the losses of a batch; valid until the next call."""
        if not self._is_cuda:
            return self._compute(batch, depth)
        key = (shape, depth)
        if key not in self._captured:
            self._captured[key] = self._capture(batch, depth)
        captured = self._captured[key]
        captured.batch.copy(batch)
        captured.graph.replay()
        return captured.losses

    def _capture(self, batch: Batch, depth: Depth) -> _Captured:
        """Record one computation; its gradients are those of the next replay, not of this."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries choose their kernels and take their workspaces
                self._compute(batch, depth)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            losses = self._compute(batch, depth)
        return _Captured(graph, batch, losses)


__all__ = ["Gradients", "GraphedGradients", "Losses"]
