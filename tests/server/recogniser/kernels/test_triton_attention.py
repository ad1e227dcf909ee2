"""Attention over slots agrees with plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.parametrize("is_causal", [True, False])
def test_rows_of_different_lengths(interpret: Callable[[str], None], is_causal: bool) -> None:
    interpret(
        f"is_causal = {is_causal}"
        + """
from stream_server.recogniser.kernels import triton_attention as fused
heads, groups, size, capacity, width = 4, 2, 16, 100, 24
starts = torch.zeros(2, dtype=torch.long) if is_causal else torch.tensor([70, 3])
place = Place(2, width, heads, torch.tensor([3, 1]), starts, starts + width, is_causal)
caches = torch.randn(5, groups, capacity, size), torch.randn(5, groups, capacity, size)
query = torch.randn(2, heads, width, size) * 0.3
close(fused.attend(query, caches, place), plain.attend(query, caches, place))
"""
    )
