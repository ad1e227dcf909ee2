"""CUDA graphs: a call recorded once for each shape and replayed with one launch.

A step at one row is some 500 launches of a few microseconds; started one by one they take longer
than their work does. A graph fixes addresses and shapes, so a call reads which slots to work on
from a tensor of its own, and shapes come in buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T")


class Graphs(Generic[_T]):
    """Recorded calls by shape; records at the first use of a shape.

    Args:
        device: on which.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        # Of its own: cuBLAS has a workspace for each stream that is recorded on, which graphs that
        # run at a time must not share. One for all records: PyTorch has 32 streams and hands them
        # out in turn, so with one for each record, two users would have the same in the end.
        self._stream: Any = None
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], _T]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._recorded

    def record(
        self, key: Hashable, call: Callable[..., _T], inputs: tuple[Tensor, ...], warm_ups: int = 2
    ) -> None:
        """Record ``call`` on copies of ``inputs``; it really runs ``warm_ups`` times before."""
        own = tuple(each.clone() for each in inputs)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            # Kernels are compiled and libraries find their workspaces here, outside the graph.
            for _ in range(warm_ups):
                call(*own)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(
            graph, self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            result = call(*own)
        if self._pool is None:
            self._pool = graph.pool()
        self._recorded[key] = (graph, own, result)

    def replay(self, key: Hashable, inputs: tuple[Tensor, ...]) -> _T:
        """Run a recorded call on ``inputs``; its result is overwritten by the next replay."""
        graph, own, result = self._recorded[key]
        for place, value in zip(own, inputs, strict=True):
            place.copy_(value)
        graph.replay()
        return result


__all__ = ["Graphs"]
