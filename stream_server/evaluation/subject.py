"""What is measured: a model of ours, as its checkpoint says or otherwise, or a reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from stream_server.config import RecogniserConfig
from stream_server.errors import ConfigError
from stream_server.evaluation.reference import Reference
from stream_server.evaluation.rounding import round_to_float8
from stream_server.recogniser.checkpoint import (
    EMBEDDED,
    load_model,
    load_recogniser,
    pick_device,
)
from stream_server.recogniser.interface import Recogniser
from stream_server.recogniser.recogniser import DiffusionRecogniser
from stream_server.recogniser.support import GuardConfig


@dataclass(frozen=True, slots=True)
class Subject:
    """A recogniser and how it decodes."""

    recogniser: Recogniser
    has_steps: bool = True
    """Whether it refines in steps, so that their number matters."""
    start: str | None = None
    """What canvases begin from: ``noise``, ``ctc`` or ``masks``."""
    scheme: str | None = None
    """Its kind of diffusion."""
    guard: GuardConfig | None = None
    """Support under which text is dropped."""


KINDS = ("diffusion", "whisper", "pocketsphinx")
"""Of recognisers; the first is ours."""
STARTS = ("noise", "ctc")


def parse_guard(text: str) -> GuardConfig:
    """Read the guard: one threshold for all, or of words, texts, brief texts and lone words.

    Raises:
        ConfigError: it is none.
    """
    try:
        limits = [float(part) for part in text.split(",")]
    except ValueError:
        limits = []
    if not 1 <= len(limits) <= 4 or not all(0 <= limit <= 1 for limit in limits):
        wanted = "0, or numbers up to 1: of a word, a text, a brief text, a lone word"
        raise ConfigError("guard", text, wanted)
    return GuardConfig(*(limits if len(limits) > 1 else limits * 2))


def load_subject(
    config: RecogniserConfig,
    kind: str = "diffusion",
    start: str | None = None,
    guard: GuardConfig | None = None,
    *,
    is_rounded: bool = False,
) -> Subject:
    """Load a model.

    Args:
        config: which, and where it runs.
        kind: one of :data:`KINDS`.
        start: what canvases begin from, in the place of what the checkpoint says.
        guard: when text is dropped, in the place of the same.
        is_rounded: with its layers as float8 would have them; see ``rounding``.

    Raises:
        ConfigError: an option is wrong, or does not go with this kind.
        ModelError: it cannot be loaded.
    """
    if kind not in KINDS:
        raise ConfigError("recogniser", kind, f"one of {', '.join(KINDS)}")
    if start is not None and start not in STARTS:
        raise ConfigError("start", start, f"one of {', '.join(STARTS)}")
    if kind == "diffusion":
        recogniser = _load_rounded(config) if is_rounded else load_recogniser(config)
        sampler = recogniser.sampler
        if start is not None and sampler.is_absorbing:
            raise ConfigError("start", start, "nothing where canvases begin from masks")
        recogniser.retune(start or sampler.start, guard or recogniser.guard)
        begins = "masks" if sampler.is_absorbing else recogniser.sampler.start
        return Subject(recogniser, True, begins, sampler.scheme, recogniser.guard)
    if start is not None or guard is not None or is_rounded:
        allowed = "diffusion, where --start, --guard or --float8 are given"
        raise ConfigError("recogniser", kind, allowed)
    return Subject(_load_reference(config, kind), has_steps=False)


def _load_rounded(config: RecogniserConfig) -> DiffusionRecogniser:
    """Load a checkpoint of our own; the published system has float8 on a GPU."""
    if config.threads:
        torch.set_num_threads(config.threads)
    network, codec = load_model(EMBEDDED if config.model == "embedded" else Path(config.model))
    round_to_float8(network)
    return DiffusionRecogniser(network, codec, pick_device(config.device), config.steps)


def _load_reference(config: RecogniserConfig, kind: str) -> Reference:
    # Imported where they are asked for: one is slow to import, the other may not be installed.
    if kind == "pocketsphinx":
        from stream_server.evaluation.sphinx import load_sphinx

        return load_sphinx()
    from stream_server.evaluation.whisper import load_whisper

    if config.model == "embedded":
        raise ConfigError("model", config.model, "a Whisper checkpoint: a folder or a hub name")
    if config.threads:
        torch.set_num_threads(config.threads)
    return load_whisper(config.model, config.device)


__all__ = ["KINDS", "STARTS", "Subject", "load_subject", "parse_guard"]
