"""The published system is loaded from its parts, however its adapter's keys are called."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stream_server.config import RecogniserConfig
from stream_server.errors import ModelError
from stream_server.recogniser import device_model
from stream_server.recogniser.adapter import save_adapter
from stream_server.recogniser.checkpoint import load_recogniser
from stream_server.recogniser.device_model import SPARE, DeviceModel
from stream_server.recogniser.interface import Hypothesis, Utterance
from stream_server.recogniser.kernels.choice import plain_kernels
from stream_server.recogniser.published import PublishedModel
from stream_server.recogniser.published_loader import is_published, load_published

CPU = torch.device("cpu")
PCM = (np.random.default_rng(0).standard_normal(32_000) * 0.1).astype(np.float32)
SAID = {"prompt": {"ends": [1]}, "canvas": {"buckets": [16, 32]}, "languages": ["en", "de"]}


def as_peft(folders: Any) -> dict[str, Any]:
    """As ``torch.save({"projector": projector.state_dict(), "lora": peft.state_dict()})``."""
    lora = {f"base_model.model.{k}.default.weight": v for k, v in folders.lora.items()}
    return {"projector": folders.projector.state_dict(), "lora": lora}


def as_flat(folders: Any) -> dict[str, Any]:
    """As one state of everything that is trained, the projector a plain sequence."""
    names = {"convolutions.0": "conv.0", "convolutions.1": "conv.2", "convolutions.2": "conv.4"}
    state = {}
    for name, tensor in folders.projector.state_dict().items():
        place, _, kind = name.rpartition(".")
        state[f"audio_projector.{names.get(place, 'proj')}.{kind}"] = tensor
    state |= {f"backbone.base_model.model.{k}.weight": v for k, v in folders.lora.items()}
    return state


def as_run(folders: Any) -> dict[str, Any]:
    """As a training checkpoint: settings, step, optimiser beside the model, layers by side."""
    sides: dict[str, Any] = {"encoder": {}, "decoder": {}}
    for name, tensor in folders.lora.items():
        side = "encoder" if "encoder" in name else "decoder"
        sides[side][name[name.index("layers") :]] = tensor
    return {
        "step": 3000,
        "config": {"lora_alpha": 12, "lora_r": 4, "audio": "whisper-small"},
        "model": {"adapter": sides, "projector": folders.projector.state_dict()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3, 3)}}, "param_groups": [{"lr": 1.0}]},
    }


LAYOUTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "peft": as_peft,
    "flat": as_flat,
    "run": as_run,
}


@pytest.fixture
def adapter(tmp_path: Path, published_folders: Any) -> Callable[..., Path]:
    """Writes a folder with a ``.pt`` file in a layout."""

    def write(layout: str = "peft", said: dict[str, Any] | None = None) -> Path:
        torch.save(LAYOUTS[layout](published_folders), tmp_path / "diffusion_asr_small.pt")
        (tmp_path / "diffscribe.json").write_text(json.dumps(SAID if said is None else said))
        return tmp_path

    return write


@pytest.fixture
def options(published_folders: Any) -> Callable[[Path], RecogniserConfig]:
    """The command line's options for a folder."""

    def make(folder: Path) -> RecogniserConfig:
        return RecogniserConfig(
            model=str(folder),
            backbone=str(published_folders.backbone),
            audio_encoder=str(published_folders.audio_encoder),
            device="cpu",
            threads=1,
        )

    return make


def load(folder: Path, options: Callable[[Path], RecogniserConfig]) -> PublishedModel:
    return load_published(folder, options(folder), CPU)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_placed_and_told(
    layout: str,
    adapter: Callable[..., Path],
    options: Any,
    published_folders: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = load(adapter(layout), options)
    table = capsys.readouterr().err
    assert "lora.encoder.layers.*.self_attn.q_proj.lora_A" in table
    assert "projector.linear.weight" in table
    assert len(table.splitlines()) < 50
    trained = model.trained()
    for name, tensor in published_folders.projector.state_dict().items():
        assert torch.equal(trained[f"projector.{name}"], tensor), name
    for name, tensor in published_folders.lora.items():
        short = name.removeprefix("model.").replace("encoder.language_model", "encoder")
        assert torch.equal(trained[f"lora.{short}.weight"], tensor), name
    assert model.config.lora.rank == 4
    assert model.config.lora.alpha == (12 if layout == "run" else 8)
    assert ("alpha of LoRA is not in the file" in table) == (layout != "run")
    assert ("passed over, of training: 1" in table) == (layout == "run")


def test_what_is_said_beside_the_file_counts(adapter: Callable[..., Path], options: Any) -> None:
    model = load(adapter(said={**SAID, "lora": {"alpha": 5.0}, "name": "mine"}), options)
    assert model.config.lora.alpha == 5
    assert model.config.name == "mine"
    assert model.config.languages == ("en", "de")
    assert model.config.canvas.margin == 8


def test_adapters_of_both_sides_stay_apart_beside_one_weight(
    adapter: Callable[..., Path], options: Any, published_folders: Any
) -> None:
    model = load(adapter(), options)
    upstream = model.decoder.model.model
    one = upstream.encoder.language_model.layers[0].self_attn.q_proj
    other = upstream.decoder.layers[0].self_attn.q_proj
    assert one.base_layer.weight is other.base_layer.weight
    original = published_folders.model.model.decoder.layers[0].self_attn.q_proj.weight
    assert torch.equal(one.base_layer.weight, original)
    hidden = torch.randn(3, 32)
    lora = published_folders.lora
    for module, name in ((one, "encoder.language_model"), (other, "decoder")):
        place = f"model.{name}.layers.0.self_attn.q_proj"
        low = hidden @ lora[f"{place}.lora_A"].T
        expected = hidden @ original.T + 2 * low @ lora[f"{place}.lora_B"].T
        torch.testing.assert_close(module(hidden), expected)


def in_slots(model: PublishedModel, *_: object) -> DeviceModel:
    """As on a GPU, without its kernels and graphs."""
    return DeviceModel(model, plain_kernels(), 4)


@pytest.mark.parametrize("is_in_slots", [False, True])
def test_a_transcription_runs_through_the_recogniser(
    adapter: Callable[..., Path], options: Any, monkeypatch: Any, is_in_slots: bool
) -> None:
    if is_in_slots:
        monkeypatch.setattr(device_model, "speed_up", in_slots)
    recogniser = load_recogniser(options(adapter()))
    assert isinstance(recogniser._model, DeviceModel if is_in_slots else PublishedModel)
    recogniser.warm_up()
    said = [Utterance(PCM, steps=3, trace=True), Utterance(PCM[:9000], steps=2, language="de")]

    def finish(*said: Utterance) -> list[Hypothesis]:
        rows = list(recogniser.start(said))
        last = {}
        while rows:
            hypotheses = recogniser.step(rows)
            last |= {id(row.utterance): h for row, h in zip(rows, hypotheses, strict=True)}
            rows = [row for row, h in zip(rows, hypotheses, strict=True) if not h.is_final]
        return [last[id(each)] for each in said]

    together = finish(*said)
    for hypothesis in together:
        assert hypothesis.is_final
        assert len(hypothesis.tokens) == len(hypothesis.confidences)
        assert all(0 <= c <= 1 for c in hypothesis.confidences)
    # Rows of other lengths run with masks and alone without: the text is the same.
    assert [each.tokens for each in (*finish(said[0]), *finish(said[1]))] == [
        each.tokens for each in together
    ]
    if isinstance(recogniser._model, DeviceModel):
        recogniser.release([])
        gc.collect()
        assert recogniser._model._leases.free == 4 + SPARE, "every row gave its slot back"


def test_plain_kernels_leave_the_model_as_it_is(
    adapter: Callable[..., Path], options: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        device_model, "pick_kernels", lambda _: replace(plain_kernels(), name="fused")
    )
    config = replace(options(adapter()), kernels="plain")
    assert isinstance(load_recogniser(config)._model, PublishedModel)


def test_an_exported_adapter_is_the_same_model(
    adapter: Callable[..., Path], options: Any, tmp_path: Path
) -> None:
    first = load(adapter(), options)
    folder = tmp_path / "mine"
    save_adapter(folder, first.config, first.trained())
    assert is_published(folder)
    second = load(folder, options)
    assert second.config == first.config
    pcm, lengths = torch.from_numpy(PCM)[None], torch.tensor([len(PCM)])
    with torch.inference_mode():
        one, _ = first.hear(pcm, lengths, torch.tensor([1]))
        other, _ = second.hear(pcm, lengths, torch.tensor([1]))
    assert all(map(torch.equal, one.keys, other.keys))


def broken(state: dict[str, Any], change: str) -> dict[str, Any]:
    lora, projector = state["lora"], state["projector"]
    first = next(iter(lora))
    if change == "missing":
        del lora[first]
    elif change == "unknown":
        projector["gate.scale"] = torch.ones(3)
    elif change == "shape":
        lora[first] = torch.ones(4, 33)
    elif change == "no convolution":
        del projector["convolutions.1.weight"]
    elif change == "no side":
        lora["layers.0.self_attn.q_proj.lora_A"] = torch.ones(4, 32)
    elif change == "ranks":
        lora[first] = torch.ones(5, 32)
    return state


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", r"missing: lora.encoder.layers.0.self_attn.q_proj.lora_A.weight$"),
        ("unknown", r"projector.gate.scale \[3\] has no place$"),
        ("shape", r"layers.0.self_attn.q_proj.lora_A.default.weight is \[4, 33\], beside a layer"),
        (
            "no convolution",
            r"wanted 3 convolutions from 24 .* found projector.convolutions.0.weight",
        ),
        ("no side", r"lora.layers.0.self_attn.q_proj.lora_A \[4, 32\] has no place"),
        ("ranks", r"LoRA of several ranks: \[4, 5\]"),
    ],
)
def test_what_does_not_fit_is_named_and_refused(
    change: str, said: str, tmp_path: Path, published_folders: Any, options: Any
) -> None:
    torch.save(broken(as_peft(published_folders), change), tmp_path / "a.pt")
    with pytest.raises(ModelError, match=said):
        load(tmp_path, options)


def test_two_files_are_one_too_many(adapter: Callable[..., Path], options: Any) -> None:
    folder = adapter()
    torch.save({}, folder / "b.pt")
    with pytest.raises(ModelError, match=r"several .pt files \(b.pt, diffusion_asr_small.pt\)"):
        load(folder, options)


def test_a_part_without_all_its_weights_is_refused(
    adapter: Callable[..., Path], options: Any, published_folders: Any, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    part.mkdir()
    for file in published_folders.audio_encoder.iterdir():
        (part / file.name).write_bytes(file.read_bytes())
    weights = load_file(part / "model.safetensors")
    del weights["encoder.conv1.weight"]
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    config = RecogniserConfig(
        model="x", backbone=str(published_folders.backbone), audio_encoder=str(part)
    )
    with pytest.raises(ModelError, match=r"audio encoder .* 1 weights .* encoder.conv1.weight"):
        load_published(adapter(), config, CPU)


def test_a_backbone_without_its_tokenizer_is_refused(
    adapter: Callable[..., Path], published_folders: Any
) -> None:
    whisper = str(published_folders.audio_encoder)
    config = RecogniserConfig(model="x", backbone=whisper, audio_encoder=whisper)
    with pytest.raises(ModelError, match=r"tokenizer.json is missing"):
        load_published(adapter(), config, CPU)


@pytest.mark.parametrize("said", ["[1]", "{", '{"lora": {"alhpa": 3}}', '{"lora": 3}'])
def test_what_is_said_wrongly_beside_the_file_is_refused(
    said: str, adapter: Callable[..., Path], options: Any
) -> None:
    folder = adapter()
    (folder / "diffscribe.json").write_text(said)
    with pytest.raises(ModelError, match=r"diffscribe.json"):
        load(folder, options)
