"""A run of the published recipe from a pack to an adapter: what ``train run`` does with it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stream_server.errors import ConfigError
from stream_server.recogniser.adapter import save_adapter
from stream_server.recogniser.backbone import FULL_SIZE, random_backbone
from stream_server.recogniser.encoder import WhisperAudioEncoder
from stream_server.recogniser.model import CanvasConfig
from stream_server.recogniser.network import TextCodec
from stream_server.recogniser.projector import ProjectorConfig
from stream_server.recogniser.published import LoraShape, PublishedConfig, PublishedModel
from stream_server.recogniser.published_loader import Parts, load_parts
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.corpus import Corpus
from stream_server.training.curves import draw_curves
from stream_server.training.loop import log_line
from stream_server.training.pack import Packed, read_packs
from stream_server.training.published import PublishedTrainer
from stream_server.training.recipe import Recipe, build

_WHISPER_SMALL = {
    "d_model": 768,
    "encoder_layers": 12,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "num_mel_bins": 80,
}
_REHEARSAL_WORDS = 1024
"""Tokens of the stand-in encoding of a rehearsal."""


def is_published(recipe: Recipe) -> bool:
    """Return whether a recipe trains an adapter of a frozen backbone."""
    return "backbone" in recipe.model


def published_config(recipe: Recipe, input_size: int, output_size: int) -> PublishedConfig:
    """Return what joins the frozen parts of a recipe.

    Args:
        recipe: whose ``[model]`` names the parts.
        input_size: width of the audio encoder.
        output_size: hidden size of the backbone.

    Raises:
        ConfigError: a key of ``[model]`` is unknown.
    """
    model = dict(recipe.model)
    sizes = {"input_size": input_size, "output_size": output_size}
    projector = build(ProjectorConfig, {**model.pop("projector"), **sizes}, "model.projector")
    known: dict[str, Any] = {
        "projector": projector,
        "lora": build(LoraShape, model.pop("lora", {}), "model.lora"),
        "canvas": build(CanvasConfig, {"margin": 8, **model.pop("canvas", {})}, "model.canvas"),
        "languages": tuple(model.pop("languages", ("en",))),
        "backbone": model.pop("backbone"),
        "audio_encoder": model.pop("audio_encoder"),
    }
    for section in ("random_backbone", "random_encoder"):
        model.pop(section, None)
    for key, value in model.items():
        raise ConfigError(f"model.{key}", value, f"known keys are {', '.join(sorted(known))}")
    return PublishedConfig(name=recipe.name, **known)


def rehearsal_parts(recipe: Recipe, clips: list[Packed], device: torch.device) -> Parts:
    """Return frozen parts with random weights at full size, and a stand-in encoding.

    What is measured with them is memory, speed and whether gradients reach what is trained; what
    is learnt is the projector's and LoRA's alone. ``[model.random_backbone]`` and
    ``[model.random_encoder]`` may say smaller sizes.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    options = {**FULL_SIZE, **recipe.model.get("random_backbone", {})}
    sizes = {**_WHISPER_SMALL, **recipe.model.get("random_encoder", {})}
    tokenizer: TextCodec = Tokenizer.train([clip.text for clip in clips], _REHEARSAL_WORDS)
    prompts = [(list(range(2, 8)), list(range(8, 23)))] * 2
    torch.manual_seed(recipe.seed)
    encoder = WhisperAudioEncoder(sizes)
    return Parts(
        encoder=encoder.to(device=device, dtype=dtype).eval(),
        backbone=random_backbone(options, device, dtype, recipe.seed),
        tokenizer=_OnePrompt(tokenizer),
        prompts=prompts,
    )


class _OnePrompt:
    """An embedded tokenizer whose languages number the rehearsal's two prompts."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.ends = tokenizer.ends
        self.encode = tokenizer.encode
        self.piece = tokenizer.piece
        self.words = tokenizer.words

    def language(self, language: str | None) -> int:
        """Return the number of a prompt."""
        return 0 if language is None else 1


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run goes, apart from its recipe."""

    workers: int = 2
    """Processes for decoding."""
    save_every: int = 100
    """Updates between saved states."""
    report_every: int = 10
    """Updates between lines of the log."""
    updates: int = 0
    """Updates of this process; 0: no limit."""
    minutes: float = 0
    """Minutes of the whole run; 0: no limit."""
    rehearse: bool = False
    """Whether the frozen parts are random."""


def train_published(
    recipe: Recipe, data: Path, output: Path, device: torch.device, options: RunOptions
) -> None:
    """Train, or go on training where the last run in ``output`` stopped.

    Args:
        recipe: the recipe.
        data: folder that ``train pack`` wrote.
        output: folder for log, curves, state and adapter.
        device: where to.
        options: how.

    Raises:
        ModelError: a frozen part cannot be loaded.
    """
    output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    clips = [clip for clip in read_packs(data, options.workers) if not clip.held_out]
    print(f"decoded {len(clips)} clips in {time.monotonic() - began:.0f} s", flush=True)
    began = time.monotonic()
    parts = rehearsal_parts(recipe, clips, device) if options.rehearse else _load(recipe, device)
    config = published_config(recipe, parts.encoder.hidden_size, parts.backbone.hidden_size)
    model = PublishedModel(config, parts.encoder, parts.backbone, parts.prompts).to(device)
    print(f"frozen parts there in {time.monotonic() - began:.0f} s", flush=True)
    weights, plan = recipe.speech.weights, recipe.batch
    corpus = Corpus(clips, parts.tokenizer, weights, plan, device)  # type: ignore[arg-type]
    trainer = PublishedTrainer(recipe, model, parts.tokenizer)
    state = output / "state.pt"
    if state.exists():
        trainer.load(state)
    size = sum(parameter.numel() for parameter in trainer.trained)
    whole = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{size / 1e6:.2f} M of {whole / 1e9:.2f} B parameters are trained, "
        f"from update {trainer.step}",
        flush=True,
    )
    trainer.budget = options.minutes * 60 or float("inf")
    last = recipe.optimiser.steps
    if options.updates:
        last = min(last, trainer.step + options.updates)
    report = log_line(output / "log.jsonl")
    while trainer.done() < 1 and trainer.step < last:
        count = min(options.save_every, last - trainer.step)
        trainer.run(corpus, count, options.report_every, report)
        trainer.save(state)
        save_adapter(output / "adapter", config, model.trained())
        if (output / "log.jsonl").exists():
            draw_curves(output / "log.jsonl", output / "curves.png")


def _load(recipe: Recipe, device: torch.device) -> Parts:
    """Load the frozen parts that a recipe names."""
    named = published_config(recipe, 0, 0)
    return load_parts(named.backbone, named.audio_encoder, named.languages, named.prompt, device)


__all__ = [
    "RunOptions",
    "is_published",
    "published_config",
    "rehearsal_parts",
    "train_published",
]
