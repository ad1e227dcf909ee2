"""The decode bench on a toy model: what it counts, what it compares, what it leaves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from stream_server.evaluation import decode_bench
from stream_server.evaluation.decode_bench import (
    Ceilings,
    Result,
    Shape,
    Work,
    counting_experts,
    expected_experts,
    floor_ms,
)
from stream_server.recogniser.backbone import random_gemma
from stream_server.recogniser.denoise import SamplerConfig
from stream_server.recogniser.denoiser import Denoiser
from stream_server.recogniser.kernels.choice import plain_kernels

CPU = torch.device("cpu")
SHAPE = Shape(2, 8, 5)


@pytest.fixture(scope="module")
def options(toy_decoder: dict[str, Any]) -> dict[str, Any]:
    """Of the backbone."""
    return {**toy_decoder, "num_experts": 8, "vocab_size": 120}


@pytest.fixture(scope="module")
def model(options: dict[str, Any]) -> Any:
    """With random weights."""
    model = random_gemma(options, CPU, torch.float32)
    # Large enough that rounding is not all there is to the scores.
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(8)
    model.set_experts_implementation("grouped_mm")
    return model


@pytest.fixture
def denoiser(model: Any) -> Denoiser:
    """Of the same weights."""
    return Denoiser(copy.deepcopy(model), plain_kernels(), SamplerConfig(), 2, 16, 8)


def test_shapes() -> None:
    assert Shape.parse("4x64x90") == Shape(4, 64, 90)
    assert Shape.parse("4x64").prompt == 85
    assert Shape.parse("4x192").prompt == 210
    assert Shape.parse("4x64").name == "4x64"
    with pytest.raises(ValueError, match="invalid literal"):
        Shape.parse("axb")


def test_expected_experts_are_those_of_a_draw() -> None:
    assert expected_experts(1, 8, 128) == 8
    assert expected_experts(64, 8, 128) == pytest.approx(125.9, abs=0.1)
    drawn = [
        len({int(each) for _ in range(6) for each in torch.randperm(16)[:2]}) for _ in range(400)
    ]
    assert sum(drawn) / 400 == pytest.approx(expected_experts(6, 2, 16), rel=0.05)


@torch.inference_mode()
def test_experts_are_counted_layer_by_layer(denoiser: Denoiser) -> None:
    usual = denoiser.stack.kernels
    denoiser.slots.widths[:] = 8
    with counting_experts(denoiser.stack) as counts:
        denoiser.step(*denoiser.units(torch.tensor([0, 1]), denoiser.unit))
    assert len(counts) == 2
    assert all(2 <= count <= 8 for count in counts)
    assert denoiser.stack.kernels is usual


def test_the_floor_is_bytes_or_operations(denoiser: Denoiser) -> None:
    few, many = Work(1, 8, 13, (3, 4), False), Work(1, 8, 13, (8, 8), False)
    by_bytes = Ceilings(1.0, 1e18)
    one = (2 * 16 * 32 + 16 * 32) * 4
    more = floor_ms(denoiser, many, by_bytes) - floor_ms(denoiser, few, by_bytes)
    assert more == pytest.approx((8 + 8 - 3 - 4) * one)
    by_work = Ceilings(1e18, 1.0)
    assert floor_ms(denoiser, few, by_work) == floor_ms(denoiser, many, by_work)
    whole = Work(1, 8, 13, (3, 4), True)
    added = floor_ms(denoiser, whole, by_bytes) - floor_ms(denoiser, few, by_bytes)
    assert added == pytest.approx(2 * 120 * 32 * 4 + 2 * 8 * 120 * 4)


@torch.inference_mode()
def test_our_scores_are_those_of_transformers(model: Any, denoiser: Denoiser) -> None:
    found = decode_bench.compare(model, denoiser, Shape(1, 8, 5))
    assert found["scores"] < 1e-5
    assert found["argmax_same"] == found["stock_argmax_same"] == 1
    assert model.config.text_config._experts_implementation == "grouped_mm"


@torch.inference_mode()
def test_a_shape_is_measured_beside_stock(model: Any, denoiser: Denoiser) -> None:
    result = Result(SHAPE, 2)
    decode_bench.measure_stock(model, denoiser, result)
    decode_bench.measure(denoiser, result, Ceilings(1e6, 1e6))
    assert result.problems == []
    figures = result.to_json()
    assert all(figures[name] > 0 for name in figures if name not in ("shape", "problems"))
    assert result.per_segment == pytest.approx((result.total or 0) / 2)
    table = decode_bench.table([result]).splitlines()
    assert table[0].count("|") == table[1].count("|") == table[2].count("|")


@torch.inference_mode()
def test_a_part_that_fails_is_noted_and_the_rest_goes_on(denoiser: Denoiser) -> None:
    result = Result(SHAPE, 2)
    decode_bench.measure_stock(None, denoiser, result)
    decode_bench.measure(denoiser, result, Ceilings(1e6, 1e6))
    assert result.total is not None
    assert result.stock_total is None
    assert result.problems[0].startswith("stock: AttributeError")
    assert "stock: AttributeError" in decode_bench.table([result])


@torch.inference_mode()
def test_ceilings_are_of_this_machine() -> None:
    limits = decode_bench.measure_ceilings(CPU, torch.float32)
    assert 1e4 < limits.bytes_per_ms < 1e12
    assert 1e4 < limits.operations_per_ms < 1e13


@torch.inference_mode()
def test_float8_is_compared_with_what_was_before(denoiser: Denoiser) -> None:
    before = decode_bench.scores_of(denoiser, SHAPE)
    again = decode_bench.scores_of(denoiser, SHAPE)
    assert decode_bench.difference(again, before) == {"scores": 0.0, "argmax_same": 1.0}
    denoiser.quantise(dense=True)
    after = decode_bench.difference(decode_bench.scores_of(denoiser, SHAPE), before)
    assert 0.001 < after["scores"] < 1


@pytest.mark.gpu
@torch.inference_mode()
def test_kernels_are_listed_by_time(options: dict[str, Any]) -> None:
    device = torch.device("cuda")
    model = random_gemma(options, device, torch.bfloat16)
    times = decode_bench.profile(Denoiser(model, plain_kernels(), SamplerConfig(), 2, 16, 8), SHAPE)
    assert times == sorted(times, key=lambda each: -each[1])
