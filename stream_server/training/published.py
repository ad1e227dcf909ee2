"""The published recipe: a frozen 26 B backbone, of which LoRA and the projector are trained.

The losses are those of ``losses`` over a vocabulary that does not fit into memory
(``vocabulary``). Trained weights are float32 masters beside bfloat16 ones; layers are computed
again in the backward pass.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.network import TextCodec
from stream_server.recogniser.published import PublishedModel
from stream_server.training.augment import mask_features, perturb
from stream_server.training.corpus import Batch, Corpus
from stream_server.training.loop import Report, learning_rate, write_state
from stream_server.training.losses import corrupt
from stream_server.training.recipe import Recipe
from stream_server.training.vocabulary import ctc_loss, token_losses


class PublishedTrainer:
    """A run over adapters: losses, optimiser, step."""

    def __init__(self, recipe: Recipe, model: PublishedModel, tokenizer: TextCodec) -> None:
        self.recipe = recipe
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.chance = random.Random(recipe.seed)
        self.device = next(model.projector.parameters()).device
        torch.manual_seed(recipe.seed)
        model.decoder.recompute = True
        self.trained = [*model.projector.parameters(), *model.decoder.lora().values()]
        for parameter in self.trained:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        config = recipe.optimiser
        self.optimiser = torch.optim.AdamW(
            self.trained,
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
            fused=self.device.type == "cuda",
        )
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

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return every loss of a batch; ``loss`` is their weighted sum."""
        model, weights = self.model, self.recipe.losses
        with torch.no_grad():
            pcm = perturb(batch.pcm, batch.lengths, self.recipe.augment)
            features, frames = model.features(pcm, batch.lengths)
            spoken = torch.div(batch.lengths, 160, rounding_mode="floor").clamp(min=1)
            features = mask_features(features, spoken, self.recipe.augment)
        tokens = model.encode(features, frames)
        hop = model.samples_per_ctc_frame
        counts = torch.div(batch.lengths + hop - 1, hop, rounding_mode="floor")
        counts = counts.clamp(max=tokens.shape[1])
        heard = tokens[:, : int(counts.max())]
        blank = model.config.prompt.ctc_blank
        ctc = ctc_loss(model.decoder, heard, counts, batch.text, batch.text_lengths, blank)
        cache, causal = self._teacher_forced(tokens, batch)
        diffusion, right = self._denoise(cache, batch)
        total = weights.diffusion * diffusion + weights.autoregressive * causal + weights.ctc * ctc
        return {
            "loss": total,
            "diffusion": diffusion.detach(),
            "right": right,
            "autoregressive": causal.detach(),
            "ctc": ctc.detach(),
        }

    def _teacher_forced(self, tokens: Tensor, batch: Batch) -> tuple[PromptCache, Tensor]:
        """Run prompt and text through the causal half; see ``losses.teacher_forced``."""
        decoder = self.model.decoder
        # One language for the batch, so that its prompts are of one length and need no mask.
        said = self.tokenizer.language("en" if self.chance.random() < 0.8 else None)
        prompt, lengths = self.model.prompt(tokens, [said] * len(tokens))
        width = prompt.shape[1]
        embeddings = torch.cat([prompt, decoder.embed(batch.text).to(prompt.dtype)], dim=1)
        # Padding stands behind the text, where nothing before it can see it.
        cache, hidden = decoder.prefill(embeddings, torch.full_like(lengths, embeddings.shape[1]))
        own = PromptCache(
            tuple(keys[:, :, :width] for keys in cache.keys),
            tuple(values[:, :, :width] for values in cache.values),
            lengths,
        )
        place = torch.arange(batch.text.shape[1] + 1, device=tokens.device)[None]
        ends = self.model.config.prompt.ends[0]
        targets = nn.functional.pad(batch.text, (0, 1))
        targets = targets.masked_fill(place == batch.text_lengths[:, None], ends)
        spoken = place <= batch.text_lengths[:, None]
        each = token_losses(decoder, hidden[:, width - 1 :][spoken], targets[spoken])
        return own, each.mean()

    def _denoise(self, cache: PromptCache, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predict the clean canvas from a noisy one; see ``losses.diffusion_loss``."""
        decoder, weights = self.model.decoder, self.recipe.losses
        plan = self.model.config.canvas
        width = plan.bucket(int(batch.text.shape[1]) + 1)
        if self.chance.random() < 0.3:
            width = plan.bucket(width + 1)
        place = torch.arange(width, device=self.device)[None]
        lengths = batch.text_lengths[:, None]
        text = nn.functional.pad(batch.text, (0, width))[:, :width]
        targets = torch.where(place < lengths, text, self.model.config.prompt.ends[0])
        noisy = corrupt(targets, targets, decoder.vocabulary, replace(weights, draft=0.0))
        sizes = (width,) * len(targets)
        soft = None
        if self.chance.random() < weights.conditioned:
            with torch.no_grad():
                states = decoder.refine(noisy, sizes, cache)
                heat = 0.4 + 0.4 * self.chance.random()
                soft = torch.stack(
                    [decoder.soften(decoder.raw_scores(row) / heat) for row in states]
                )
        hidden = decoder.refine(noisy, sizes, cache, soft).flatten(0, 1)
        each = token_losses(decoder, hidden, targets.flatten()).view_as(targets)
        spoken = place <= lengths
        weight = torch.where(spoken, 1.0, weights.filler)
        with torch.no_grad():
            # Of a token whose probability is more than half, it is known without its neighbours.
            right = ((each < math.log(2)) & spoken).sum() / spoken.sum()
        return (each * weight).sum() / weight.sum(), right

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Make one update."""
        config = self.recipe.optimiser
        rate = learning_rate(self.step, self.done(), config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        losses = self.losses(batch)
        torch.autograd.backward(losses["loss"])
        norm = nn.utils.clip_grad_norm_(self.trained, config.clip)
        # A rare bad batch must not end the run: its update is left out.
        if norm.isfinite():
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return {**losses, "norm": norm}

    def run(self, corpus: Corpus, steps: int, every: int, report: Report) -> None:
        """Make ``steps`` updates, fewer where the run ends; reports means over ``every``."""
        sums: dict[str, float] = {}
        since, began = 0, time.monotonic()
        for _ in range(steps):
            if self.done() >= 1:
                break
            for name, value in self.update(corpus.batch(self.chance, self.step)).items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            since += 1
            if since == every:
                means = {name: round(value / since, 4) for name, value in sums.items()}
                speed = {"updates_per_second": round(since / (time.monotonic() - began), 3)}
                report({"step": self.step, **means, **speed, **self._memory()})
                sums, since, began = {}, 0, time.monotonic()

    def _memory(self) -> dict[str, float]:
        if self.device.type != "cuda":
            return {}
        return {"peak_gb": round(torch.cuda.max_memory_reserved(self.device) / 1e9, 1)}

    def save(self, path: Path) -> None:
        """Write everything that :meth:`load` needs to go on; frozen weights are left out."""
        state: dict[str, Any] = {
            "trained": {name: t.detach() for name, t in self.model.trained().items()},
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds + time.monotonic() - self._began,
        }
        write_state(path, state)

    def load(self, path: Path) -> None:
        """Go on from what :meth:`save` wrote."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        trained = self.model.trained()
        with torch.no_grad():
            for name, tensor in state["trained"].items():
                trained[name].copy_(tensor)
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.chance.seed(self.recipe.seed + self.step)
        torch.manual_seed(self.recipe.seed + self.step)


__all__ = ["PublishedTrainer"]
