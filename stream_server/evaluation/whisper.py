"""Any Whisper checkpoint, decoded greedily: the autoregressive reference.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, with
transformers' implementation: one beam, no sampling, no fallback to other temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from stream_server.errors import ModelError
from stream_server.evaluation.reference import Reference
from stream_server.recogniser.checkpoint import pick_device
from stream_server.recogniser.interface import SAMPLE_RATE, RecogniserInfo, Utterance

_LONGEST = 30 * SAMPLE_RATE
"""Samples; Whisper hears so much at once, padded with silence."""


def load_whisper(name: str, device: str) -> Reference:
    """Load a checkpoint.

    Args:
        name: a local folder, or a name on the hub.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; half precision on a GPU.

    Raises:
        ModelError: it is not there, or not Whisper.
    """
    target = pick_device(device)
    dtype = torch.float32 if target.type == "cpu" else torch.float16
    try:
        processor = WhisperProcessor.from_pretrained(name)
        model = WhisperForConditionalGeneration.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"whisper checkpoint {name!r}: {error}") from error
    model = model.to(target).eval()
    return Reference(_info(name, model, target), _Greedy(model, processor))


def _info(name: str, model: Any, device: torch.device) -> RecogniserInfo:
    tokens: dict[str, int] = getattr(model.generation_config, "lang_to_id", None) or {}
    return RecogniserInfo(
        name=f"whisper {name}",
        languages=tuple(sorted(token.strip("<|>") for token in tokens)) or ("en",),
        max_samples=_LONGEST,
        max_rows=8 if device.type == "cpu" else 32,
        default_steps=1,
    )


class _Greedy:
    """From utterances to texts."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor
        # English-only checkpoints have no such tokens and refuse to be asked.
        self._is_multilingual = bool(getattr(model.generation_config, "is_multilingual", False))

    @torch.inference_mode()
    def __call__(self, utterances: Sequence[Utterance]) -> list[str]:
        features = self._processor.feature_extractor(
            [utterance.pcm[:_LONGEST] for utterance in utterances],
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            return_attention_mask=True,
        ).to(self._model.device, self._model.dtype)
        asked: dict[str, Any] = {}
        if self._is_multilingual:
            languages = [utterance.language for utterance in utterances]
            asked = {"task": "transcribe", "language": languages if all(languages) else None}
        tokens = self._model.generate(
            features.input_features,
            attention_mask=features.attention_mask,
            num_beams=1,
            do_sample=False,
            **asked,
        )
        texts: list[str] = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return texts


__all__ = ["load_whisper"]
