"""An adapter folder is read as it was written, or refused by the name of what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stream_server.errors import ModelError
from stream_server.recogniser.adapter import (
    WEIGHTS,
    fill,
    is_adapter,
    parse_config,
    read_adapter,
    save_adapter,
)
from stream_server.recogniser.backbone import random_backbone
from stream_server.recogniser.encoder import WhisperAudioEncoder
from stream_server.recogniser.gemma import PromptConfig
from stream_server.recogniser.projector import ProjectorConfig
from stream_server.recogniser.published import LoraShape, PublishedConfig, PublishedModel

CONFIG = PublishedConfig(
    "mine",
    ProjectorConfig(16, 12, 16, hidden=8),
    LoraShape(2, 6.0, targets=r"self_attn\.q_proj", sides=("decoder",)),
    languages=("de",),
    prompt=PromptConfig(instruction="Write down what is said.", ctc_blank=3),
)


def build() -> PublishedModel:
    options = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "global_head_dim": 8,
        "num_global_key_value_heads": 1,
        "num_experts": 2,
        "top_k_experts": 1,
        "moe_intermediate_size": 8,
        "vocab_size": 40,
    }
    whisper = {
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
    }
    backbone = random_backbone(options, torch.device("cpu"), torch.float32)
    return PublishedModel(CONFIG, WhisperAudioEncoder(whisper), backbone, [([2], [3])])


@pytest.fixture
def model() -> PublishedModel:
    return build()


@pytest.fixture
def folder(tmp_path: Path, model: PublishedModel) -> Path:
    save_adapter(tmp_path / "adapter", model.config, model.trained())
    return tmp_path / "adapter"


def test_what_was_saved_is_loaded(folder: Path, model: PublishedModel) -> None:
    config, weights = read_adapter(folder)
    assert config == CONFIG
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    other = build()
    for tensor in other.trained().values():
        tensor.data.zero_()
    fill(other, weights, folder)
    for name, tensor in model.trained().items():
        assert torch.equal(other.trained()[name], tensor), name


def test_it_is_two_files_that_all_may_read(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [WEIGHTS, "config.json"]
    assert (folder / WEIGHTS).stat().st_mode & 0o777 == 0o644
    assert is_adapter(folder)
    assert not is_adapter(folder.parent)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(format="x"), r"format 'x'; this server reads"),
        (lambda d: d.update(sha256="0"), rf"{WEIGHTS} is damaged"),
        (lambda d: d.pop("adapter"), r"config.json cannot be read"),
        (lambda d: d["adapter"].pop("name"), r"missing required field `name`"),
        (lambda d: d["adapter"]["lora"].update(rank="2"), r"Expected `int`, got `str`"),
        (lambda d: d["adapter"]["lora"].update(r=2), r"there are no such keys: lora.r$"),
    ],
)
def test_a_wrong_configuration_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match=said):
        read_adapter(folder)


def test_an_incomplete_folder_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config.json is missing"):
        read_adapter(folder)


def test_weights_that_are_none_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(ModelError, match="is damaged"):
        read_adapter(folder)


def test_every_weight_that_does_not_fit_is_named(model: PublishedModel) -> None:
    weights = dict(model.trained())
    del weights["projector.linear.bias"]
    weights["projector.gate"] = torch.ones(1)
    weights["projector.inner.bias"] = torch.ones(9)
    with pytest.raises(
        ModelError,
        match=r"missing: projector.linear.bias; left over: projector.gate; "
        r"shapes: projector.inner.bias is \(9,\), wanted \(8,\)$",
    ):
        fill(model, weights, Path("there"))


def test_a_configuration_has_defaults() -> None:
    projector = {"input_size": 1, "width": 2, "output_size": 3}
    config = parse_config({"name": "n", "projector": projector}, Path("p"))
    assert config.lora.rank == 16
    assert config.canvas.buckets[-1] == 192
    assert config.prompt.ends == (1, 106, 50)
