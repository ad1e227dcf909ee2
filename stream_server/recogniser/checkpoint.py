"""Checkpoints: a folder of config.json, tokenizer.json and safetensors shards.

A language model of text (``ngram``) and what hears phones (``phones``) may lie beside them.

Weights are stored in half precision, in shards of at most 15 MB, each with its hash in the
config, so that a damaged or incomplete folder is refused by name rather than heard as nonsense.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from stream_server.config import RecogniserConfig
from stream_server.errors import ModelError
from stream_server.recogniser.model import ModelConfig, TranscriptionModel
from stream_server.recogniser.network import Network, TextCodec
from stream_server.recogniser.ngram import NgramModel
from stream_server.recogniser.phones import PhoneModel
from stream_server.recogniser.recogniser import DiffusionRecogniser
from stream_server.recogniser.tokenizer import Tokenizer

FORMAT = 1
SHARD_BYTES = 15_000_000
LANGUAGE = "language.safetensors"
"""File of the language model."""
PHONES = "phones.safetensors"
"""File of what hears phones."""
EMBEDDED = Path(__file__).with_name("embedded")


def untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's state with one name, the last, for each of the tensors that it ties."""
    names = {tensor.data_ptr(): name for name, tensor in state.items()}
    return {name: state[name] for name in names.values()}


def save_checkpoint(
    folder: Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer: Tokenizer
) -> None:
    """Write a checkpoint, replacing what is in ``folder``.

    Args:
        folder: where to; made if need be.
        config: the network.
        state: weights by the names of ``TranscriptionModel.state_dict``; of tensors that
            DiffusionGemma ties, one name is enough (:func:`untied`).
        tokenizer: the encoding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in sorted(state.items()):
        half = tensor.detach().cpu().half() if tensor.is_floating_point() else tensor.cpu()
        size = half.numel() * half.element_size()
        if shards[-1] and used + size > SHARD_BYTES:
            shards.append({})
            used = 0
        shards[-1][name] = half.contiguous()
        used += size
    hashes = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:02d}-of-{len(shards):02d}.safetensors"
        save_file(shard, folder / name)
        (folder / name).chmod(0o644)
        hashes[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    tokenizer.save(folder / "tokenizer.json")
    _write_config(folder, config, hashes)


def save_language(folder: Path, language: NgramModel) -> None:
    """Put a language model into a checkpoint, in the place of what it had."""
    _save_part(folder, LANGUAGE, language.arrays)


def save_phones(folder: Path, phones: PhoneModel) -> None:
    """Put what hears phones into a checkpoint, in the place of what it had."""
    _save_part(folder, PHONES, phones.arrays)


def _save_part(folder: Path, name: str, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    config, hashes = _read_config(folder)
    save_arrays(arrays, folder / name)
    (folder / name).chmod(0o644)
    hashes[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    _write_config(folder, config, hashes)


def save_config(folder: Path, config: ModelConfig) -> None:
    """Replace what a checkpoint says of how it decodes."""
    _, hashes = _read_config(folder)
    _write_config(folder, config, hashes)


def _write_config(folder: Path, config: ModelConfig, hashes: Mapping[str, str]) -> None:
    document = {"format": FORMAT, "model": config.to_json(), "shards": dict(hashes)}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _read_config(folder: Path) -> tuple[ModelConfig, dict[str, str]]:
    path = folder / "config.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ModelError(f"{path}: format {document['format']}; this server reads {FORMAT}")
        return ModelConfig.from_json(document["model"]), dict(document["shards"])
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: not a checkpoint folder") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error!r}") from error


def load_model(folder: Path) -> tuple[TranscriptionModel, Tokenizer]:
    """Read a checkpoint.

    Returns:
        The network in float32 on the CPU, in evaluation mode, and its tokenizer.

    Raises:
        ModelError: names the file and what is wrong with it.
    """
    config, hashes = _read_config(folder)
    weights: dict[str, Tensor] = {}
    language, phones = None, None
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path} is missing: the checkpoint is incomplete, copy it again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ModelError(f"{path} is damaged (its hash differs): copy it again")
        try:
            if name == LANGUAGE:
                language = NgramModel.from_arrays(load_arrays(path))
            elif name == PHONES:
                phones = PhoneModel.from_arrays(load_arrays(path))
            else:
                weights.update(load_file(path))
        except (SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
    path = folder / "config.json"
    try:
        model = TranscriptionModel(config)
        if phones is not None:
            model.hear_phones(phones)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path} describes no network: {error}") from error
    model.language = language
    _fill(model, weights, folder)
    tokens = folder / "tokenizer.json"
    if not tokens.is_file():
        raise ModelError(f"{tokens} is missing: the checkpoint is incomplete, copy it again")
    return model.eval(), Tokenizer.load(tokens)


def _fill(model: TranscriptionModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Put weights into a network; every one must find its place, and every place its weight."""
    try:
        state = {name: tensor.float() for name, tensor in weights.items()}
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{folder}: weights do not fit: {error}") from error
    # Counts of batches serve training alone and are not stored.
    missing = {name for name in result.missing_keys if not name.endswith("num_batches_tracked")}
    missing -= set(_tied(model, weights))
    if missing or result.unexpected_keys:
        raise ModelError(
            f"{folder}: weights do not fit; missing {sorted(missing)[:5]}, "
            f"unknown {sorted(result.unexpected_keys)[:5]}"
        )


def _tied(model: TranscriptionModel, weights: Mapping[str, Tensor]) -> list[str]:
    """Return names whose tensor came in under another name."""
    state = model.state_dict(keep_vars=True)
    loaded = {id(state[name]) for name in weights if name in state}
    return [name for name, tensor in state.items() if id(tensor) in loaded]


def pick_device(wanted: str) -> torch.device:
    """Return the device that ``wanted`` (``auto``, ``cpu``, ``cuda``, ``cuda:N``) means."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {wanted!r}: no CUDA device is visible; use --device cpu")
    return device


def load_recogniser(
    config: RecogniserConfig, report: Callable[[str, int, int], None] | None = None
) -> DiffusionRecogniser:
    """Build the recogniser that the configuration names.

    Args:
        config: which, and where.
        report: told what takes long, how many parts of it are done, and of how many.

    Raises:
        ModelError: the model is not there or does not fit.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    network, codec = _load(config, device, report)
    return DiffusionRecogniser(network, codec, device, config.steps)


def _load(
    config: RecogniserConfig,
    device: torch.device,
    report: Callable[[str, int, int], None] | None,
) -> tuple[Network, TextCodec]:
    if config.model == "embedded":
        return _load_own(EMBEDDED, config)
    # Imported here: the embedded model needs neither the hub nor PEFT, which take a second.
    from stream_server.recogniser.device_model import speed_up
    from stream_server.recogniser.hub import fetch
    from stream_server.recogniser.published_loader import is_published, load_published

    folder = fetch(config.model, "model", ("*.json", "*.safetensors", "*.pt"))
    if not is_published(folder):
        return _load_own(folder, config)
    model, codec = load_published(folder, config, device)
    return speed_up(model, device, config, report), codec


def _load_own(folder: Path, config: RecogniserConfig) -> tuple[Network, TextCodec]:
    if config.fused_only:
        raise ModelError(f"{config.fused_only} needs fused kernels, which this model does not have")
    return load_model(folder)


__all__ = [
    "EMBEDDED",
    "FORMAT",
    "LANGUAGE",
    "PHONES",
    "SHARD_BYTES",
    "load_model",
    "load_recogniser",
    "pick_device",
    "save_checkpoint",
    "save_config",
    "save_language",
    "save_phones",
    "untied",
]
