"""Adapters: a folder of ``config.json`` and ``adapter.safetensors``, projector and LoRA.

The frozen parts are named in the configuration and come from their own folders or repositories.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stream_server.errors import ModelError
from stream_server.recogniser.published import PublishedConfig, PublishedModel

ADAPTER_FORMAT = "diffscribe-adapter-1"
WEIGHTS = "adapter.safetensors"


def save_adapter(folder: Path, config: PublishedConfig, weights: Mapping[str, Tensor]) -> None:
    """Write an adapter, replacing what is in ``folder``.

    Args:
        folder: where to; made if need be.
        config: everything that is not in the frozen parts.
        weights: ``PublishedModel.trained()``; written in float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS
    save_file({name: t.detach().float().cpu().contiguous() for name, t in weights.items()}, path)
    path.chmod(0o644)
    document = {
        "format": ADAPTER_FORMAT,
        "adapter": msgspec.to_builtins(config),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def is_adapter(folder: Path) -> bool:
    """Return whether ``folder`` holds an adapter that :func:`save_adapter` wrote."""
    return (folder / WEIGHTS).is_file()


def read_adapter(folder: Path) -> tuple[PublishedConfig, dict[str, Tensor]]:
    """Read what :func:`save_adapter` wrote.

    Raises:
        ModelError: names the file and what is wrong with it.
    """
    path = folder / "config.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != ADAPTER_FORMAT:
            raise ModelError(
                f"{path}: format {document['format']!r}; this server reads {ADAPTER_FORMAT!r}"
            )
        config = parse_config(document["adapter"], path)
        expected = document["sha256"]
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: the adapter is incomplete, copy it again") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error!r}") from error
    weights = folder / WEIGHTS
    if hashlib.sha256(weights.read_bytes()).hexdigest() != expected:
        raise ModelError(f"{weights} is damaged (its hash differs): copy it again")
    try:
        return config, load_file(weights)
    except SafetensorError as error:
        raise ModelError(f"{weights} cannot be read: {error}") from error


def parse_config(data: Mapping[str, Any], path: Path) -> PublishedConfig:
    """Read a configuration strictly.

    Raises:
        ModelError: a key is missing, unknown or of the wrong type.
    """
    try:
        config = msgspec.convert(data, PublishedConfig)
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: {error}") from error
    unknown = _unknown(data, msgspec.to_builtins(config))
    if unknown:
        raise ModelError(f"{path}: there are no such keys: {', '.join(unknown)}")
    return config


def _unknown(data: Mapping[str, Any], known: Mapping[str, Any], place: str = "") -> list[str]:
    found = []
    for key, value in data.items():
        if key not in known:
            found.append(place + key)
        elif isinstance(value, Mapping):
            found += _unknown(value, known[key], f"{place}{key}.")
    return found


def fill(model: PublishedModel, weights: Mapping[str, Tensor], source: Path) -> None:
    """Put an adapter's weights into a model; each must find its place, and each place its weight.

    Raises:
        ModelError: with every name that is missing, left over or of another shape.
    """
    places = model.trained()
    missing = sorted(places.keys() - weights.keys())
    over = sorted(weights.keys() - places.keys())
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, wanted {tuple(place.shape)}"
        for name, place in places.items()
        if name in weights and weights[name].shape != place.shape
    ]
    if missing or over or shapes:
        said = [
            f"{title}: {', '.join(names)}"
            for title, names in (("missing", missing), ("left over", over), ("shapes", shapes))
            if names
        ]
        raise ModelError(f"{source} does not fit; {'; '.join(said)}")
    for name, place in places.items():
        place.detach().copy_(weights[name])


__all__ = [
    "ADAPTER_FORMAT",
    "WEIGHTS",
    "fill",
    "is_adapter",
    "parse_config",
    "read_adapter",
    "save_adapter",
]
