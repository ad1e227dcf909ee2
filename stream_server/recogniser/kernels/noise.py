"""Noise that is counted, not drawn: a number depends on (seed, place) and on nothing else.

A row's noise therefore does not depend on its neighbours, on the batch's shape or on the device,
and it is made inside a CUDA graph without a generator's state. The mixing function is SplitMix64
(Steele, Lea and Flood, 2014) on two's-complement int64.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


def _mix(state: Tensor) -> Tensor:
    """Return SplitMix64's output for ``state``; shifts are logical, hence the masks."""
    state = (state ^ ((state >> 30) & 0x3FFFFFFFF)) * _FIRST
    state = (state ^ ((state >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return state ^ ((state >> 31) & 0x1FFFFFFFF)


def count_noise(seeds: Tensor, width: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return the noise of one step.

    Args:
        seeds: [rows], int64, another for each step.
        width: places of a canvas.
        vocabulary: tokens.

    Returns:
        [rows, width], uniform in [0, 1), float32; and [rows, width], tokens, int64.
    """
    places = torch.arange(width, device=seeds.device)
    keys = _mix(seeds * _GOLDEN)[:, None]
    drawn = _mix(keys + (places + 1) * _GOLDEN)
    uniform = ((drawn >> 40) & 0xFFFFFF).float() * (1.0 / (1 << 24))
    tokens = ((drawn & 0xFFFFFFFF) * vocabulary) >> 32
    return uniform, tokens


__all__ = ["count_noise"]
