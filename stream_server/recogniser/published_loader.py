"""Load the published system: two frozen parts, an adapter, and a tokenizer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from transformers import DiffusionGemmaForBlockDiffusion, WhisperModel

from stream_server.config import RecogniserConfig
from stream_server.errors import ModelError
from stream_server.recogniser.adapter import fill, is_adapter, parse_config, read_adapter
from stream_server.recogniser.adapter_import import import_adapter
from stream_server.recogniser.backbone import Backbone
from stream_server.recogniser.encoder import WhisperAudioEncoder
from stream_server.recogniser.gemma import GemmaTokenizer, PromptConfig
from stream_server.recogniser.hub import fetch
from stream_server.recogniser.network import TextCodec
from stream_server.recogniser.projector import ProjectorConfig
from stream_server.recogniser.published import PublishedConfig, PublishedModel

_BACKBONE_FILES = ("*.json", "*.safetensors", "*.jinja")
_OVERRIDES = "diffscribe.json"
"""What a ``.pt`` file does not say of itself: fields of ``PublishedConfig``."""
_ENCODER_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything about the published system that is frozen."""

    encoder: WhisperAudioEncoder
    backbone: Backbone
    tokenizer: TextCodec
    prompts: Sequence[tuple[Sequence[int], Sequence[int]]]
    """Tokens before and after the audio, by number of language."""


def load_parts(
    backbone: str,
    audio_encoder: str,
    languages: Sequence[str],
    prompt: PromptConfig,
    device: torch.device,
) -> Parts:
    """Load the frozen parts onto ``device``, in bfloat16 where that is a GPU.

    Args:
        backbone: a folder, or a name on the hub.
        audio_encoder: the same.
        languages: ISO 639-1 codes.
        prompt: what is said around the audio.
        device: where to.

    Raises:
        ModelError: a part cannot be had or is not what it should be.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    listening = fetch(audio_encoder, "audio_encoder", _ENCODER_FILES)
    folder = fetch(backbone, "backbone", _BACKBONE_FILES)
    tokenizer = GemmaTokenizer.load(folder, languages, prompt)
    encoder = _load_encoder(listening, device, dtype)
    try:
        model, loaded = DiffusionGemmaForBlockDiffusion.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device},
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"backbone {folder} cannot be loaded: {error}") from error
    _refuse_missing("backbone", folder, loaded)
    return Parts(encoder, Backbone(model.eval()), tokenizer, tokenizer.prompts())


def is_published(folder: Path) -> bool:
    """Return whether a folder holds an adapter of the published system."""
    return is_adapter(folder) or any(folder.glob("*.pt"))


def load_published(
    folder: Path, config: RecogniserConfig, device: torch.device
) -> tuple[PublishedModel, TextCodec]:
    """Load the published system.

    Args:
        folder: of an adapter: what ``adapter.save_adapter`` wrote, or one ``.pt`` file with or
            without a ``diffscribe.json`` that says what the file does not.
        config: may name the frozen parts.
        device: where to.

    Returns:
        The model, in evaluation mode, and its tokenizer.

    Raises:
        ModelError: a part cannot be had or does not fit.
    """
    weights: dict[str, Tensor] | None = None
    said: dict[str, Any] = {}
    if is_adapter(folder):
        known, weights = read_adapter(folder)
    else:
        said = _read_overrides(folder)
        known = _complete(said, folder)
    parts = load_parts(
        config.backbone or known.backbone,
        config.audio_encoder or known.audio_encoder,
        known.languages,
        known.prompt,
        device,
    )
    if weights is None:
        known, weights = _import(folder, known, parts, "alpha" in said.get("lora", {}))
    model = PublishedModel(known, parts.encoder, parts.backbone, parts.prompts).to(device).eval()
    fill(model, weights, folder)
    return model, parts.tokenizer


def _read_overrides(folder: Path) -> dict[str, Any]:
    """Return what is said beside a ``.pt`` file."""
    path = folder / _OVERRIDES
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error!r}") from error


def _complete(said: Mapping[str, Any], folder: Path) -> PublishedConfig:
    """Return the configuration of a ``.pt`` file: defaults, and what is said beside it."""
    # The projector's shape is found in the file.
    data = msgspec.to_builtins(PublishedConfig(folder.name, ProjectorConfig(0, 0, 0)))
    for key, value in said.items():
        both = isinstance(value, Mapping) and isinstance(data.get(key), Mapping)
        data[key] = {**data[key], **value} if both else value
    return parse_config(data, folder / _OVERRIDES)


def _import(
    folder: Path, known: PublishedConfig, parts: Parts, alpha_is_said: bool
) -> tuple[PublishedConfig, dict[str, Tensor]]:
    """Find out what the ``.pt`` file in ``folder`` holds, and print it."""
    files = sorted(folder.glob("*.pt"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        raise ModelError(f"{folder} holds several .pt files ({names}): leave one of them")
    sizes = (parts.encoder.hidden_size, parts.backbone.hidden_size)
    found = import_adapter(files[0], parts.backbone.linears(), sizes)
    lora = replace(found.lora, alpha=known.lora.alpha) if alpha_is_said else found.lora
    print(f"{files[0]}:\n{found.table()}", file=sys.stderr, flush=True)
    return replace(known, projector=found.projector, lora=lora), found.weights


def _load_encoder(folder: Path, device: torch.device, dtype: torch.dtype) -> WhisperAudioEncoder:
    try:
        whole, loaded = WhisperModel.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"audio encoder {folder} cannot be loaded: {error}") from error
    _refuse_missing("audio encoder", folder, loaded)
    encoder = WhisperAudioEncoder(whole.config.to_dict())
    encoder.encoder.load_state_dict(whole.encoder.state_dict())
    return encoder.to(device=device, dtype=dtype).eval()


def _refuse_missing(part: str, folder: Path, loaded: Mapping[str, Any]) -> None:
    """Upstream draws weights that are not in the files at random, and only warns."""
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ModelError(
            f"{part} {folder}: {len(missing)} weights are not in its files: "
            f"{', '.join(missing[:5])}{' ...' if missing[5:] else ''}"
        )


__all__ = ["Parts", "is_published", "load_parts", "load_published"]
