"""The training loop: readable from top to bottom, resumable, no audio work on the CPU.

A thread draws what the next batches are made of while the device works on this one; the device
lays them out, perturbs them, and computes gradients from a captured graph (``graphs``).
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stream_server.recogniser.checkpoint import untied
from stream_server.recogniser.model import Encoded, ModelConfig, TranscriptionModel
from stream_server.recogniser.tokenizer import END, Tokenizer
from stream_server.training.augment import perturbed_features
from stream_server.training.corpus import Batch, Corpus, Layout
from stream_server.training.ctc import ctc_loss
from stream_server.training.graphs import GraphedGradients, Losses
from stream_server.training.losses import (
    Depth,
    MiddleCtc,
    carry,
    consistency_loss,
    ctc_draft,
    diffusion_loss,
    teacher_forced,
)
from stream_server.training.peers import Alone, Peers
from stream_server.training.recipe import OptimiserConfig, Recipe

Report = Callable[[Mapping[str, float | str]], None]


def model_config(recipe: Recipe) -> ModelConfig:
    """Return the network that a recipe describes."""
    model = dict(recipe.model)
    decoder = {**model.pop("decoder"), "vocab_size": recipe.vocabulary}
    defaults = ModelConfig.to_json(
        ModelConfig("", (), "", {}, projector=model["projector"], decoder={})
    )
    sections = {
        key: {**defaults[key], **model.pop(key, {})}
        for key in ("features", "canvas", "sampler", "guard", "draft")
    }
    data = {**defaults, **model, **sections, "decoder": decoder, "name": recipe.name}
    return ModelConfig.from_json(data)


def learning_rate(step: int, done: float, config: OptimiserConfig) -> float:
    """Linear warm-up by update, then a cosine to the final rate.

    Args:
        step: updates made.
        done: share of the run that lies behind, 0 to 1.
        config: the rates.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    spread = config.learning_rate - config.final_rate
    return config.final_rate + spread * 0.5 * (1 + math.cos(math.pi * done))


class Trainer:
    """A run: network, optimiser, average, step.

    Args:
        recipe: what to train, and how.
        tokenizer: of the text.
        phones: classes of the lexicon.
        device: where to.
        place: of this process among those that train the same network.
        peers: the others.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        phones: int,
        device: torch.device,
        place: int = 0,
        peers: Peers | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.device = device
        self.place = place
        self.peers = peers or Alone()
        self.is_over = False
        """Whether the run ended, for all of its processes."""
        self.chance = random.Random(recipe.seed + place)
        self.model = TranscriptionModel(model_config(recipe))
        self.model.decoder.scale_for_training()
        self.model.encoder.scale_for_training()
        for name, parameter in self.model.decoder.named_parameters():
            if name.endswith("per_expert_scale"):
                # The experts' own weights can take it over, and its gradient, two sorts of all
                # tokens for four numbers, took a twentieth of an update.
                parameter.requires_grad_(False)
        self.middle = MiddleCtc(self.model.encoder, phones, recipe.losses.middle_layer)
        self.trained = nn.ModuleDict({"model": self.model, "middle": self.middle}).to(device)
        config = recipe.optimiser
        parameters = [p for p in self.trained.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
            fused=device.type == "cuda",
        )
        self.parameters = parameters
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        torch.manual_seed(recipe.seed + place)  # the same weights, other noise
        self.gradients = GraphedGradients(self._compute, device)
        self.live = {
            name: tensor.detach()
            for name, tensor in untied(self.trained.state_dict()).items()
            if tensor.is_floating_point()
        }
        """The floating-point tensors, one name for those that are tied."""
        self.average = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self.step = 0
        self.seconds = 0.0
        """Seconds trained before this process."""
        self.budget = math.inf
        """Seconds that the whole run may take; the schedule then follows the clock."""
        self._began = time.monotonic()

    def done(self) -> float:
        """Return the share of the run that lies behind."""
        spent = self.seconds + time.monotonic() - self._began
        return min(1.0, max(self.step / self.recipe.optimiser.steps, spent / self.budget))

    def _compute(self, batch: Batch, depth: Depth) -> Losses:
        """Put the gradients of a batch in place; waits for nothing, so that it can be captured."""
        torch._foreach_zero_([p.grad for p in self.parameters if p.grad is not None])
        losses = self.losses(batch, depth)
        torch.autograd.backward(losses["loss"])
        return {name: value.detach() for name, value in losses.items()}

    def losses(self, batch: Batch, depth: Depth) -> Losses:
        """Return every loss of a batch that ``depth`` asks for; ``loss`` is their weighted sum."""
        recipe, model = self.recipe, self.model
        weights = recipe.losses
        heard = batch.twice() if weights.consistency else batch
        with torch.no_grad():
            features, frames = perturbed_features(
                model.features, heard.pcm, heard.lengths, recipe.augment
            )
        half = self.device.type == "cuda" and recipe.optimiser.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            encoded = model.encode(features, frames)
            middle = self.middle()
            losses = {}
            if depth is not Depth.HEARING:
                once = encoded.first(len(batch.lengths))
                once = replace(once, tokens=carry(once.tokens, weights.carried))
                losses = self._decoder_losses(batch, once, depth is Depth.CONDITIONED)
        counts = encoded.counts * model.config.ctc_parts
        losses["ctc"] = ctc_loss(encoded.ctc, counts, heard.text, heard.text_lengths)
        losses["middle_ctc"] = ctc_loss(
            middle, encoded.state_counts, heard.phones, heard.phone_lengths
        )
        if weights.consistency:
            losses["consistency"] = consistency_loss(encoded.ctc, counts, heard.text_lengths)
        total = sum(
            (getattr(weights, name) * loss for name, loss in losses.items() if name != "right"),
            torch.zeros((), device=self.device),
        )
        return {"loss": total, **losses}

    def _decoder_losses(self, batch: Batch, encoded: Encoded, is_conditioned: bool) -> Losses:
        """Return what both halves of the decoder make of a batch."""
        model = self.model
        languages = torch.full_like(batch.lengths, self.tokenizer.language("en"))
        unsaid = torch.rand(len(languages), device=self.device) < 0.2
        languages = languages.masked_fill(unsaid, self.tokenizer.language(None))
        text, lengths = batch.text, batch.text_lengths
        cache, causal = teacher_forced(model, encoded, languages, text, lengths)
        width = model.config.canvas.bucket(int(text.shape[1]) + 1)
        place = torch.arange(width, device=self.device)[None]
        padded = nn.functional.pad(text, (0, width))[:, :width]
        targets = torch.where(place < lengths[:, None], padded, END)
        parts = model.config.ctc_parts
        draft, drafted = ctc_draft(encoded.ctc.detach(), encoded.counts * parts, width)
        draft = torch.where(place < drafted[:, None], draft, END)
        diffusion, right = diffusion_loss(
            model, cache, targets, lengths, draft, self.recipe.losses, is_conditioned
        )
        return {"diffusion": diffusion, "right": right, "autoregressive": causal}

    def _draw_depth(self) -> Depth:
        weights = self.recipe.losses
        if self.chance.random() >= weights.decoded:
            return Depth.HEARING
        is_conditioned = self.chance.random() < weights.conditioned
        return Depth.CONDITIONED if is_conditioned else Depth.DENOISING

    def update(self, layout: Layout, batch: Batch) -> Losses:
        """Make one update."""
        config = self.recipe.optimiser
        self.trained.train()
        rate = learning_rate(self.step, self.done(), config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        losses = self.gradients(layout.shape, batch, self._draw_depth())
        norm = nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self._apply(norm.isfinite())
        self._follow(min(config.average, (1 + self.step) / (10 + self.step)))
        self.step += 1
        return {**losses, "norm": norm}

    def _apply(self, is_finite: Tensor) -> None:
        """Let the optimiser step. A rare bad batch must not end the run: it is left out."""
        if self.device.type == "cuda":
            # The fused optimiser reads this on the device: the host does not wait.
            self.optimiser.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
            self.optimiser.step()
        elif is_finite:
            self.optimiser.step()

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        names = list(self.live)
        torch._foreach_lerp_(
            [self.average[name] for name in names], [self.live[name] for name in names], 1 - decay
        )

    def run(self, corpus: Corpus, steps: int, every: int, report: Report) -> None:
        """Make ``steps`` updates, fewer where the run ends.

        ``report`` gets the means over each ``every`` updates.
        """
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        since, began = 0, time.monotonic()
        for layout in self._drawn(corpus, steps):
            self.is_over = self.peers.meet(self.step, list(self.live.values()), self.done() >= 1)
            if self.is_over:
                break
            losses = self.update(layout, corpus.lay_out(layout))
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach()
                counts[name] = counts.get(name, 0) + 1
            since += 1
            if since == every:
                means = {name: round(float(sums[name]) / counts[name], 4) for name in sums}
                rate = since / (time.monotonic() - began)
                report({"step": self.step, **means, "updates_per_second": round(rate, 2)})
                sums, counts, since, began = {}, {}, 0, time.monotonic()

    def _drawn(self, corpus: Corpus, count: int) -> Iterator[Layout]:
        """Draw batches in a thread, a few ahead."""
        chance = random.Random(self.chance.random())
        with ThreadPoolExecutor(1) as pool:
            ahead: deque[Future[Layout]] = deque()
            for step in range(self.step, self.step + count):
                ahead.append(pool.submit(corpus.draw, chance, step))
                if len(ahead) > 4:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def averaged(self) -> dict[str, Tensor]:
        """Return the averaged weights of the network, tied ones once."""
        own = "model."
        return {
            name.removeprefix(own): tensor
            for name, tensor in self.average.items()
            if name.startswith(own)
        }

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Take the network's weights from another run; everything else starts afresh."""
        self.model.load_state_dict(weights)
        for name, tensor in self.live.items():
            self.average[name].copy_(tensor)

    def save(self, path: Path) -> None:
        """Write everything that :meth:`load` needs to go on."""
        state: dict[str, Any] = {
            "trained": self.trained.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds + time.monotonic() - self._began,
        }
        write_state(path, state)

    def load(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.trained.load_state_dict(state["trained"])
        self.average = {name: t.to(self.device) for name, t in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.chance.seed(self.recipe.seed + self.step + 1_000_003 * self.place)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run; what is at ``path`` is whole at every moment."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def log_line(path: Path) -> Report:
    """Return a report that appends JSON lines to ``path`` and prints them."""

    def report(values: Mapping[str, float | str]) -> None:
        line = json.dumps(values)
        with path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    return report


def describe(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain types."""
    return asdict(recipe)


__all__ = [
    "Report",
    "Trainer",
    "describe",
    "learning_rate",
    "log_line",
    "model_config",
    "write_state",
]
