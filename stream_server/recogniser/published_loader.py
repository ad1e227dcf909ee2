"""Load the published system: two frozen parts, an adapter, and a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import DiffusionGemmaForBlockDiffusion, WhisperModel

from stream_server.errors import ModelError
from stream_server.recogniser.backbone import Backbone
from stream_server.recogniser.encoder import WhisperAudioEncoder
from stream_server.recogniser.gemma import GemmaTokenizer, PromptConfig
from stream_server.recogniser.hub import fetch
from stream_server.recogniser.network import TextCodec

_BACKBONE_FILES = ("*.json", "*.safetensors", "*.jinja")
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
        model = DiffusionGemmaForBlockDiffusion.from_pretrained(
            folder, dtype=dtype, device_map={"": device}, attn_implementation="sdpa"
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"backbone {folder} cannot be loaded: {error}") from error
    return Parts(encoder, Backbone(model.eval()), tokenizer, tokenizer.prompts())


def _load_encoder(folder: Path, device: torch.device, dtype: torch.dtype) -> WhisperAudioEncoder:
    try:
        whole = WhisperModel.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"audio encoder {folder} cannot be loaded: {error}") from error
    encoder = WhisperAudioEncoder(whole.config.to_dict())
    encoder.encoder.load_state_dict(whole.encoder.state_dict())
    return encoder.to(device=device, dtype=dtype).eval()


__all__ = ["Parts", "load_parts"]
