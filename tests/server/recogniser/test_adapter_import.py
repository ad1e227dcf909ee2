"""Tensors of unknown names find their places by shape, or are named; nothing else is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_server.errors import ModelError
from stream_server.recogniser.adapter_import import import_adapter, read_tensors

LINEARS = {
    f"{side}.layers.{layer}.self_attn.{name}": size
    for side in ("encoder", "decoder")
    for layer in (0, 11)
    for name, size in {"q_proj": (24, 16), "o_proj": (16, 24)}.items()
}
SIZES = (10, 16)


def lora(rank: int = 3, form: str = "{side}.{place}.lora_{half}.weight") -> dict[str, Tensor]:
    state = {}
    for linear, (outputs, inputs) in LINEARS.items():
        side, _, place = linear.partition(".")
        state[form.format(side=side, place=place, half="A")] = torch.randn(rank, inputs)
        state[form.format(side=side, place=place, half="B")] = torch.randn(outputs, rank)
    return state


def projector(width: int = 12, kernel: int = 3, hidden: int = 0) -> dict[str, Tensor]:
    state = {}
    inputs = SIZES[0]
    for index in range(3):
        state[f"p.{2 * index}.weight"] = torch.randn(width, inputs, kernel)
        state[f"p.{2 * index}.bias"] = torch.randn(width)
        inputs = width
    if hidden:
        state["p.9.weight"], state["p.9.bias"] = torch.randn(hidden, width), torch.randn(hidden)
    state["p.11.weight"] = torch.randn(SIZES[1], hidden or width)
    state["p.11.bias"] = torch.randn(SIZES[1])
    return state


def place(tmp_path: Path, state: dict[str, Any]) -> Any:
    torch.save(state, tmp_path / "a.pt")
    return import_adapter(tmp_path / "a.pt", LINEARS, SIZES)


@pytest.mark.parametrize(("width", "kernel", "hidden"), [(12, 3, 0), (12, 5, 14), (16, 3, 16)])
def test_the_projector_s_shape_is_found(
    tmp_path: Path, width: int, kernel: int, hidden: int
) -> None:
    state = projector(width, kernel, hidden)
    found = place(tmp_path, {**state, **lora()})
    config = found.projector
    assert (config.input_size, config.output_size, config.halvings) == (10, 16, 3)
    assert (config.width, config.kernel, config.hidden) == (width, kernel, hidden)
    assert torch.equal(found.weights["projector.convolutions.1.weight"], state["p.2.weight"])
    assert torch.equal(found.weights["projector.linear.bias"], state["p.11.bias"])
    if hidden:
        # In the order of the numbers, not of the letters, in which 11 stands before 9.
        assert torch.equal(found.weights["projector.inner.weight"], state["p.9.weight"])


@pytest.mark.parametrize(
    "form",
    [
        "base_model.model.model.{side}.{place}.lora_{half}.weight",
        "model.{side}.{place}.lora_{half}.default.weight",
        "{side}_lora.{place}.lora_{half}",
        "lora.{side}.language_model.{place}.base_layer.lora_{half}.weight",
    ],
)
def test_adapters_are_found_under_many_names(tmp_path: Path, form: str) -> None:
    form = form.replace(".language_model", ".language_model" if "base_layer" in form else "")
    state = lora(form=form)
    if "language_model" in form:
        state = {name.replace("decoder.language_model", "decoder"): t for name, t in state.items()}
    found = place(tmp_path, {**projector(), **state})
    assert found.lora.rank == 3
    assert found.lora.sides == ("encoder", "decoder")
    assert found.lora.targets == r"self_attn\.o_proj|self_attn\.q_proj"
    names = {f"lora.{linear}.lora_{half}.weight" for linear in LINEARS for half in "AB"}
    assert {name for name in found.weights if name.startswith("lora.")} == names


def test_one_side_alone_is_taken(tmp_path: Path) -> None:
    state = {name: t for name, t in lora().items() if name.startswith("decoder")}
    assert place(tmp_path, {**projector(), **state}).lora.sides == ("decoder",)


def test_transposed_adapters_are_turned(tmp_path: Path) -> None:
    state = lora()
    turned = {name: t.T.contiguous() for name, t in state.items()}
    found = place(tmp_path, {**projector(), **turned})
    name = "encoder.layers.11.self_attn.q_proj.lora_A.weight"
    assert torch.equal(found.weights[f"lora.{name}"], state[name])


def test_alpha_is_read_or_assumed_aloud(tmp_path: Path) -> None:
    state = {**projector(), **lora()}
    assumed = place(tmp_path, state)
    assert assumed.lora.alpha == 6
    assert "taken as twice its rank, 6" in assumed.table()
    read = place(tmp_path, {"weights": state, "args": {"lora_alpha": 16, "lr": 1e-4}})
    assert read.lora.alpha == 16
    assert "alpha" not in read.table()


def test_absent_biases_are_zero_and_told(tmp_path: Path) -> None:
    state = projector()
    del state["p.2.bias"]
    found = place(tmp_path, {**state, **lora()})
    assert not found.weights["projector.convolutions.1.bias"].any()
    assert "taken as zero: projector.convolutions.1.bias" in found.table()


def test_the_table_has_a_line_for_each_kind(tmp_path: Path) -> None:
    lines = place(tmp_path, {**projector(), **lora()}).table().splitlines()
    assert len(lines) == 8 + 8 + 1
    row = next(line for line in lines if line.startswith("decoder") and "q_proj.lora_A" in line)
    assert row.split() == [
        "decoder.layers.*.self_attn.q_proj.lora_A.weight",
        *("2", "x", "[3,", "16]", "->"),
        "lora.decoder.layers.*.self_attn.q_proj.lora_A.weight",
    ]


def test_everything_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    state = {**projector(), **lora(), "odd": torch.ones(2), "p.2.gamma": torch.ones(12)}
    state["decoder.layers.5.self_attn.q_proj.lora_A.weight"] = torch.ones(3, 16)
    with pytest.raises(ModelError) as caught:
        place(tmp_path, state)
    for said in (
        "decoder.layers.5.self_attn.q_proj.lora_A.weight [3, 16] has no place",
        "odd [2] has no place",
        "p.2.gamma [12] has no place",
    ):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "no LoRA tensors"),
        (projector(), "no LoRA tensors"),
        (lora(), "found nothing"),
        ({**projector(kernel=4), **lora()}, "wanted 3 convolutions"),
        ({**lora(), **lora(form="also.{side}.{place}.lora_{half}.weight")}, "the same place"),
    ],
)
def test_a_file_that_is_no_adapter_is_refused(
    tmp_path: Path, state: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        place(tmp_path, state)


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("content", ["object", "text", "empty"])
def test_what_is_in_a_file_is_not_run(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    if content == "object":
        torch.save({"a": Bomb()}, path)
    else:
        path.write_bytes(b"hello" if content == "text" else b"")
    with pytest.raises(ModelError, match=r"a.pt cannot be read as tensors and plain values"):
        read_tensors(path)
    assert not (tmp_path / "exploded").exists()
