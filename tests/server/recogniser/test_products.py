"""Joined layers give what they gave one by one, LoRA included, from the same memory."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from stream_server.recogniser.products import Product, join, read_product
from stream_server.recogniser.quantise import Float8


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 8, bias=False)
        self.b = nn.Linear(16, 4, bias=False)
        self.c = nn.Linear(16, 6, bias=False)


def adapted(targets: list[str]) -> Layers:
    layers = Layers()
    if targets:
        inject_adapter_in_model(LoraConfig(r=3, lora_alpha=6, target_modules=targets), layers)
        for name, parameter in layers.named_parameters():
            if "lora" in name:
                parameter.data.normal_()
    return layers


@pytest.mark.parametrize("targets", [[], ["a"], ["b"], ["a", "c"], ["a", "b", "c"]])
@torch.inference_mode()
def test_one_product_is_all_of_them(targets: list[str]) -> None:
    layers = adapted(targets)
    hidden = torch.randn(5, 16)
    wanted = torch.cat([layers.a(hidden), layers.b(hidden), layers.c(hidden)], dim=1)
    product = read_product(layers.a, layers.b, layers.c)
    torch.testing.assert_close(product(hidden), wanted)
    again = torch.cat([layers.a(hidden), layers.b(hidden), layers.c(hidden)], dim=1)
    assert torch.equal(again, wanted), "the layers themselves go on as before"
    assert (product.narrow is None) == (not targets)


@torch.inference_mode()
def test_weights_that_are_tied_are_joined_once() -> None:
    layers = adapted([])
    other = Layers()
    for name in "abc":
        getattr(other, name).weight = getattr(layers, name).weight
    first = join([layers.a.weight, layers.b.weight])
    second = join([other.a.weight, other.b.weight])
    assert first.data_ptr() == second.data_ptr() == layers.a.weight.data_ptr()
    assert layers.b.weight.data_ptr() == first[8:].data_ptr()


@torch.inference_mode()
def test_lora_stays_exact_beside_a_float8_weight() -> None:
    layers = adapted(["a"])
    exact = read_product(layers.a)
    assert isinstance(exact.weight, torch.Tensor)
    rough = Product(Float8.of(exact.weight), exact.narrow, exact.wide)
    bare = Product(exact.weight)
    hidden = torch.randn(5, 16)
    added = exact(hidden) - bare(hidden)
    rounded = rough(hidden) - Product(rough.weight)(hidden)
    torch.testing.assert_close(added, rounded, rtol=1e-4, atol=1e-4)
    assert rough.stored.dtype is torch.float8_e4m3fn
