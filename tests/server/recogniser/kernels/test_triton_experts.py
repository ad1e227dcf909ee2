"""Routing, sorting and the two products agree with plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

WEIGHTS = """
from stream_server.recogniser.kernels import triton_experts as fused
experts, hidden, inner, choices = 8, 48, 24, 3
up, down = torch.randn(experts, 2 * inner, hidden), torch.randn(experts, hidden, inner)
scale = torch.rand(experts) + 0.5
"""


@pytest.mark.parametrize("tokens", [1, 37])
@pytest.mark.parametrize("tiles", ["SMALL", "MEDIUM"])
def test_a_token_gets_what_its_experts_give(
    interpret: Callable[[str], None], tokens: int, tiles: str
) -> None:
    interpret(
        WEIGHTS
        + f"tokens, tiles = {tokens}, fused.{tiles}"
        + """
x, scores = torch.randn(tokens, hidden), torch.randn(tokens, experts)
chosen, shares = fused.route(scores, scale, choices)
wanted, wanted_shares = plain.route(scores, scale, choices)
assert chosen.tolist() == wanted.tolist()
close(shares, wanted_shares)
close(fused.run_experts(x, chosen, up, down, tiles=tiles), plain.run_experts(x, chosen, up, down))
"""
    )


def test_everybody_may_choose_one_expert(interpret: Callable[[str], None]) -> None:
    interpret(
        WEIGHTS
        + """
x = torch.randn(40, hidden)
chosen = torch.full((40, 1), 5, dtype=torch.int32)
close(fused.run_experts(x, chosen, up, down), plain.run_experts(x, chosen, up, down))
"""
    )


def test_rows_in_float8_are_rounded_as_weights_are(interpret: Callable[[str], None]) -> None:
    interpret("""
from stream_server.recogniser.kernels import triton_experts as fused
x = torch.randn(6, 48) * 3
values, scales = fused.quantise_rows(x)
small = Float8.of(x)
close(scales, small.scales)
# The interpreter loses a carry into the exponent; a GPU does not.
assert bool((values.float().abs() <= small.values.float().abs()).all())
close(values.float(), small.values.float(), 0.08)
""")
