"""A run from a pack to a checkpoint: what ``train run`` does with a recipe that has no backbone."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from stream_server.recogniser.checkpoint import load_model, save_checkpoint
from stream_server.recogniser.recogniser import DiffusionRecogniser
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.corpus import Corpus
from stream_server.training.cuts import read_cuts
from stream_server.training.loop import Trainer, log_line
from stream_server.training.pack import Packed, read_packs, read_spoken
from stream_server.training.peers import Alone, Group, PeerConfig
from stream_server.training.phones import Lexicon
from stream_server.training.recipe import Recipe
from stream_server.training.validation import validate

TEXTS = "texts"
"""Folder of a pack with what is synthesised from."""
CUTS = "cuts.json"
"""File of a pack with where its clips can be cut."""
LEXICON = "lexicon.json"
"""File of a pack with the phones of words."""
SPOKEN = "synthetic.npz"
"""File of a pack with what espeak-ng and flite said."""
KOKORO = "kokoro.npz"
"""The same of Kokoro."""
_TESTED = 150
"""Clips of a set that are heard after each saved state."""


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """How a run goes."""

    workers: int = 2
    """Processes for decoding."""
    save_every: int = 1000
    """Updates between saved states."""
    minutes: float = 0.0
    """For the whole run; 0: no limit."""
    start: Path | None = None
    """Checkpoint to begin from."""
    peers: PeerConfig = PeerConfig()


def read_pack(data: Path, workers: int) -> tuple[list[Packed], list[Packed]]:
    """Return the clips to train on, those that can be cut first, and the clips to test on."""
    packed = read_packs(data, workers)
    clips = [clip for clip in packed if not clip.held_out]
    for name in (SPOKEN, KOKORO):
        if (data / name).exists():
            clips += read_spoken(data / name)
    return clips, [clip for clip in packed if clip.held_out]


def load_corpus(
    recipe: Recipe, data: Path, clips: list[Packed], tokenizer: Tokenizer, device: torch.device
) -> tuple[Corpus, Lexicon]:
    """Return clips of a pack as a corpus on a device, and how their words sound."""
    lexicon = Lexicon.load(data / LEXICON)
    cuts = read_cuts(data / CUTS) if (data / CUTS).exists() else []
    weights = recipe.speech.weights
    return Corpus(clips, tokenizer, weights, recipe.batch, device, lexicon, cuts), lexicon


def train_embedded(
    recipe: Recipe, data: Path, output: Path, device: torch.device, options: EmbeddedOptions
) -> None:
    """Train, or go on training where the last run in ``output`` stopped.

    Only the first of several processes writes to ``output``.
    """
    output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    clips, tests = read_pack(data, options.workers)
    print(f"{len(clips)} clips, {time.monotonic() - began:.0f} s", flush=True)
    state, start, peer = output / "state.pt", options.start, options.peers
    if state.exists() or start is not None:
        tokenizer = Tokenizer.load((start or output) / "tokenizer.json")
    else:
        tokenizer = Tokenizer.train([clip.text for clip in clips], recipe.vocabulary)
    torch.set_float32_matmul_precision("high")
    corpus, lexicon = load_corpus(recipe, data, clips, tokenizer, device)
    print(json.dumps({name: round(s / 3600, 2) for name, s in corpus.seconds.items()}), flush=True)
    group = Group(peer, device) if peer.count > 1 else None
    trainer = Trainer(recipe, tokenizer, lexicon.size, device, peer.place, group or Alone())
    if state.exists():
        trainer.load(state)
    elif start is not None:
        trainer.begin_from(load_model(start)[0].state_dict())
    size = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"{size / 1e6:.1f} M parameters, from update {trainer.step}", flush=True)
    trainer.budget = options.minutes * 60 or float("inf")
    _run(trainer, corpus, tests, output, options)
    if group is not None:
        group.leave()


def _run(
    trainer: Trainer, corpus: Corpus, tests: list[Packed], output: Path, options: EmbeddedOptions
) -> None:
    is_first = options.peers.place == 0
    report = log_line(output / ("log.jsonl" if is_first else f"log-{options.peers.place}.jsonl"))
    steps = trainer.recipe.optimiser.steps
    trainer.is_over = trainer.done() >= 1
    if is_first:
        trainer.tokenizer.save(output / "tokenizer.json")
    while trainer.step < steps and not trainer.is_over:
        trainer.run(corpus, min(options.save_every, steps - trainer.step), 50, report)
        if is_first:
            trainer.save(output / "state.pt")
            weights = trainer.averaged()
            save_checkpoint(output / "checkpoint", trainer.model.config, weights, trainer.tokenizer)
            _report_errors(output, trainer.step, tests, trainer.device)


def _report_errors(output: Path, step: int, tests: list[Packed], device: torch.device) -> None:
    """Say how many words of the clips kept for testing are wrong by now."""
    model, tokenizer = load_model(output / "checkpoint")
    recogniser = DiffusionRecogniser(model, tokenizer, device, steps=8)
    report = log_line(output / "validation.jsonl")
    for name, errors in validate(recogniser, tokenizer, tests, _TESTED).items():
        report({"step": step, "set": name, "ctc_wer": errors.ctc, "wer": errors.final})


__all__ = [
    "CUTS",
    "KOKORO",
    "LEXICON",
    "SPOKEN",
    "TEXTS",
    "EmbeddedOptions",
    "load_corpus",
    "read_pack",
    "train_embedded",
]
