"""Float8 weights stand for the weights they were made of, to a few per cent."""

from __future__ import annotations

import torch
from torch.nn import functional

from stream_server.recogniser.quantise import LARGEST, Float8, linear


def test_each_row_uses_the_whole_range() -> None:
    weight = torch.randn(5, 64) * torch.tensor([1e-4, 1.0, 3.0, 100.0, 1e4])[:, None]
    small = Float8.of(weight)
    assert small.values.float().abs().amax(1).tolist() == [LARGEST] * 5
    error = (small.wide(torch.float32) - weight).norm(dim=1) / weight.norm(dim=1)
    assert 0.001 < float(error.max()) < 0.04


def test_experts_are_quantised_one_by_one() -> None:
    weight = torch.randn(3, 6, 32)
    small = Float8.of(weight)
    assert small.scales.shape == (3, 6)
    assert torch.equal(small.values[1].float(), Float8.of(weight[1]).values.float())


def test_zeros_stay_zeros() -> None:
    assert Float8.of(torch.zeros(2, 8)).wide(torch.float32).abs().sum() == 0


def test_a_product_takes_either_kind() -> None:
    hidden, weight = torch.randn(4, 64), torch.randn(6, 64)
    exact = linear(hidden, weight)
    assert torch.equal(exact, functional.linear(hidden, weight))
    rough = linear(hidden, Float8.of(weight))
    assert 0.001 < float((rough - exact).norm() / exact.norm()) < 0.05
