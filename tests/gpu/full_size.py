"""Run the published model at full size with random weights: memory, time, agreement.

    python tests/gpu/full_size.py --json full_size.json        # one GPU of 80 GB, 2 to 3 minutes
    python tests/gpu/full_size.py --tiny --device cpu          # the same path in seconds

Prints a table last and writes everything it measured as JSON. Exits 1 where something does not
hold: more memory than 80 GB, a canvas that differs from transformers' own, or scores that are
further from the truth than transformers' own. The truth is transformers in a wider precision on
the same weights: random weights route so narrowly that two right bfloat16 runs differ by a third.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "client"), str(ROOT / "protocol")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import DynamicCache  # noqa: E402

from stream_server.config import RecogniserConfig  # noqa: E402
from stream_server.evaluation.random_server import PROMPT, WHISPER_SMALL  # noqa: E402
from stream_server.recogniser.backbone import FULL_SIZE, random_backbone  # noqa: E402
from stream_server.recogniser.denoise import (  # noqa: E402
    StepInput,
    random_tokens,
    temperatures,
)
from stream_server.recogniser.device_model import DeviceModel, speed_up  # noqa: E402
from stream_server.recogniser.encoder import WhisperAudioEncoder  # noqa: E402
from stream_server.recogniser.interface import Utterance  # noqa: E402
from stream_server.recogniser.model import CanvasConfig  # noqa: E402
from stream_server.recogniser.network import Network  # noqa: E402
from stream_server.recogniser.projector import ProjectorConfig  # noqa: E402
from stream_server.recogniser.published import (  # noqa: E402
    LoraShape,
    PublishedConfig,
    PublishedModel,
)
from stream_server.recogniser.recogniser import DiffusionRecogniser  # noqa: E402

TINY_BACKBONE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "sliding_window": 1024,
    "num_experts": 8,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
    "max_position_embeddings": 2048,
    "vocab_size": 1000,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}
TINY_WHISPER = {
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 80,
}
LIMIT_GB = 80.0
LARGEST_ERROR = 1.1
"""Of scores, as a multiple of transformers' own error, both against the truth."""
EXACTNESS = ("theirs", "plain", "fused")
"""Whose errors are known: transformers', the plain path's, the fused kernels'."""
CANVAS = 64
"""Places of the canvases that are compared."""


class Numbered:
    """Stands for the tokenizer, which is not needed here: a token is its number."""

    ends = frozenset({1, 106, 50})

    def language(self, language: str | None) -> int:
        """There is one prompt."""
        return 0

    def encode(self, text: str) -> list[int]:
        """Read numbers."""
        return [int(word) for word in text.split()]

    def piece(self, token: int) -> str:
        """Write a number."""
        return f" {token}"

    def words(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Write numbers."""
        return [(f" {token}", [place]) for place, token in enumerate(tokens)]


def build(tiny: bool, device: torch.device, dtype: torch.dtype, boost: float = 1.0) -> Any:
    """Return a model with random weights; LoRA's are random too, so that both sides matter."""
    options, whisper = (TINY_BACKBONE, TINY_WHISPER) if tiny else (FULL_SIZE, WHISPER_SMALL)
    backbone = random_backbone(options, device, dtype)
    if boost != 1:
        for parameter in backbone.parameters():
            if parameter.ndim >= 2:
                parameter.data.mul_(boost)
    torch.manual_seed(0)
    encoder = WhisperAudioEncoder(whisper).to(device=device, dtype=dtype).eval()
    width = 48 if tiny else 1408
    projector = ProjectorConfig(whisper["d_model"], width, options["hidden_size"])
    config = PublishedConfig("random", projector, LoraShape(4 if tiny else 16, 8 if tiny else 32.0))
    model = PublishedModel(config, encoder, backbone, [PROMPT]).to(device).eval()
    for parameter in model.decoder.lora().values():
        parameter.data.normal_(std=0.02)
    return model


def sound(rows: int, seconds: float) -> torch.Tensor:
    """Return noise [rows, samples]."""
    chance = np.random.default_rng(0)
    return torch.from_numpy(chance.standard_normal((rows, int(seconds * 16_000))) * 0.1).float()


def wait(device: torch.device) -> float:
    """Return the time once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak(device: torch.device) -> float:
    """Return the most memory held since the last reset, in GB as the vendor counts them."""
    return torch.cuda.max_memory_reserved(device) / 1e9 if device.type == "cuda" else 0.0


def transcribe(
    recogniser: DiffusionRecogniser, rows: int, seconds: float, steps: int, device: torch.device
) -> dict[str, float]:
    """Decode a batch through the recogniser and return what it cost."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    pcm = sound(rows, seconds).numpy()
    said = [Utterance(pcm[row], steps=steps, seed=row) for row in range(rows)]
    began = wait(device)
    with torch.inference_mode():
        waiting = recogniser._lay_out(recogniser.start(said))
    heard = wait(device)
    canvas, count = len(waiting[0].canvas), 0
    while waiting:
        hypotheses = recogniser.step(waiting)
        count += 1
        waiting = [row for row, h in zip(waiting, hypotheses, strict=True) if not h.is_final]
    ended = wait(device)
    recogniser.release(waiting)
    total = ended - began
    return {
        "rows": rows,
        "seconds": seconds,
        "canvas": canvas,
        "steps": count,
        "start_ms": round((heard - began) * 1e3, 1),
        "step_ms": round((ended - heard) / count * 1e3, 1),
        "row_ms": round(total / rows * 1e3, 1),
        "times_real_time": round(rows * seconds / total, 1),
        "peak_gb": round(peak(device), 1),
    }


@torch.inference_mode()
def exact(device: torch.device, width: int = 24, steps: int = 8) -> dict[str, Any]:
    """Compare canvases with transformers' own decoder and sampler, float32, same noise."""
    model = build(True, device, torch.float32, boost=8.0)
    # In float32 the grouped product has no kernel on every GPU.
    model.decoder.model.set_experts_implementation("eager")
    pcm = sound(1, 2.0).to(device)
    lengths = torch.tensor([pcm.shape[1]], device=device)
    cache, _ = model.hear(pcm, lengths, torch.zeros(1, dtype=torch.long, device=device))
    chance = torch.Generator(device).manual_seed(7)
    canvas = random_tokens(chance, width, model.vocabulary)[None]
    left = torch.zeros(1, width, model.conditioning_size, device=device)
    own = []
    for step in range(steps):
        heat = temperatures([step], [steps], model.config.sampler, device)
        state = StepInput(canvas, (width,), left, (step > 0,), heat, (chance,))
        result = model.step(state, cache)
        canvas, left = result.canvas, result.conditioning
        own.append((canvas, result.argmax))
    theirs = _reference(model, pcm, lengths, width, steps)
    same = [
        bool(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]))
        for a, b in zip(own, theirs, strict=True)
    ]
    return {"steps": steps, "canvas": width, "same_canvas": sum(same), "exact": all(same)}


def _reference(
    model: Any, pcm: torch.Tensor, lengths: torch.Tensor, width: int, steps: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Decode with transformers' own modules: its prefill, decoder, sampler and schedule."""
    upstream = model.decoder.model
    norms = unfuse(upstream)
    embeddings, _ = model.prompt(model.listen(pcm, lengths), [0])
    past = prefill(upstream, embeddings)
    torch.manual_seed(7)
    upstream.config.canvas_length = width
    config, _ = upstream._prepare_generation_config(None, max_denoising_steps=steps)
    sampler = upstream._prepare_sampler(config)
    processor = upstream._prepare_logits_processor(config, None)
    canvas = sampler.initialize_canvas(1, pcm.device)
    best, scores = canvas, None
    finished = torch.zeros(1, dtype=torch.bool, device=pcm.device)
    count = embeddings.shape[1]
    steps_seen = []
    for step in range(steps, 0, -1):
        canvas, best, scores, finished = upstream._denoising_step(
            decoder_forward=upstream.forward,
            current_canvas=canvas,
            argmax_canvas=best,
            input_ids=None,
            decoder_position_ids=torch.arange(count, count + width, device=pcm.device)[None],
            self_conditioning_logits=scores,
            mask_mapping={"full_attention": None, "sliding_attention": None},
            past_key_values=past,
            finished_denoising=finished,
            cur_step=step,
            sampler=sampler,
            logits_processor=processor,
            diffusion_stopping_criteria=None,
        )
        steps_seen.append((canvas, best))
    fuse(norms)
    return steps_seen


def prefill(upstream: Any, embeddings: torch.Tensor) -> DynamicCache:
    """Run transformers' own causal half over embeddings."""
    stack = upstream.model.encoder.language_model
    cache = DynamicCache(config=upstream.config.text_config)
    return stack(inputs_embeds=embeddings, past_key_values=cache).past_key_values


def unfuse(upstream: Any) -> dict[Any, Any]:
    """Give every norm its own code back; returns what :func:`fuse` needs."""
    return {
        module: module.__dict__.pop("forward")
        for module in upstream.modules()
        if type(module).__name__ == "DiffusionGemmaRMSNorm" and "forward" in module.__dict__
    }


def fuse(norms: dict[Any, Any]) -> None:
    """Undo :func:`unfuse`."""
    for module, forward in norms.items():
        module.forward = forward


@contextlib.contextmanager
def widened(upstream: Any, dtype: torch.dtype) -> Iterator[None]:
    """Run transformers' modules in another precision, a layer at a time: all are 101 GB."""
    usual = upstream.config.text_config._experts_implementation
    stacks = (upstream.model.encoder.language_model, upstream.model.decoder)
    layers = [layer for stack in stacks for layer in stack.layers]
    narrow = {id(parameter): parameter.dtype for parameter in upstream.parameters()}
    layered = {id(parameter) for layer in layers for parameter in layer.parameters()}
    outside = [p for p in upstream.parameters() if id(p) not in layered]

    def widen(layer: Any, *_: Any) -> None:
        for parameter in layer.parameters():
            parameter.data = parameter.data.to(dtype)

    def restore(layer: Any, *_: Any) -> None:
        for parameter in layer.parameters():
            parameter.data = parameter.data.to(narrow[id(parameter)])

    hooks = [layer.register_forward_pre_hook(widen) for layer in layers]
    hooks += [layer.register_forward_hook(restore) for layer in layers]
    for parameter in outside:
        parameter.data = parameter.data.to(dtype)
    # The grouped product has no kernel for it.
    upstream.set_experts_implementation("eager")
    try:
        yield
    finally:
        upstream.set_experts_implementation(usual)
        for hook in hooks:
            hook.remove()
        for parameter in outside:
            parameter.data = parameter.data.to(narrow[id(parameter)])


@dataclass(frozen=True)
class Case:
    """What is compared: prompts and canvases, and the scores that transformers gives them."""

    embeddings: torch.Tensor
    lengths: torch.Tensor
    canvas: torch.Tensor
    theirs: torch.Tensor
    truth: torch.Tensor


def distance(scores: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Return the relative error, root mean square, and how often the best token is the same."""
    same = (scores.argmax(-1) == truth.argmax(-1)).float().mean()
    error = float((scores - truth).norm() / truth.norm())
    return {"error": float(f"{error:.4g}"), "same_best_token": round(float(same), 4)}


@torch.no_grad()
def agreement(model: Any, device: torch.device, rows: int) -> tuple[dict[str, Any], Case]:
    """Compare scores with transformers' own modules, and both with the truth.

    Args:
        model: in the precision in which it runs.
        device: where it is.
        rows: canvases.
    """
    pcm = sound(rows, 10.0).to(device)
    lengths = torch.tensor([pcm.shape[1]] * rows, device=device)
    embeddings, sizes = model.prompt(model.listen(pcm, lengths), [0] * rows)
    cache, _ = model.decoder.prefill(embeddings, sizes)
    chance = torch.Generator(device).manual_seed(1)
    canvas = torch.stack([random_tokens(chance, CANVAS, model.vocabulary) for _ in range(rows)])
    widths = (CANVAS,) * rows
    first = model.decoder.raw_scores(model.decoder.refine(canvas, widths, cache))
    soft = model.decoder.soften(first / 0.8)
    second = model.decoder.raw_scores(model.decoder.refine(canvas, widths, cache, soft))
    upstream = model.decoder.model
    norms = unfuse(upstream)

    def score(past: DynamicCache, conditioning: torch.Tensor | None = None) -> torch.Tensor:
        count = embeddings.shape[1]
        scores: torch.Tensor = upstream(
            decoder_input_ids=canvas,
            past_key_values=past,
            self_conditioning_logits=conditioning,
            decoder_attention_mask={"full_attention": None, "sliding_attention": None},
            decoder_position_ids=torch.arange(count, count + CANVAS, device=device)[None],
        ).logits
        return scores

    past = prefill(upstream, embeddings)
    plain = score(past)
    later = score(past, (first / 0.8).to(model.decoder.dtype))
    wide = torch.float32 if model.decoder.dtype == torch.bfloat16 else torch.float64
    with widened(upstream, wide):
        truth = score(prefill(upstream, embeddings.to(wide))).float()
    fuse(norms)
    found = {
        "deviation_of_scores": round(float(plain.std()), 4),
        "precision": str(model.decoder.dtype),
        "ours_and_theirs": distance(first, plain),
        "ours_and_theirs_step_2": distance(second, later),
        "theirs": distance(plain, truth),
        "plain": distance(first, truth),
    }
    return found, Case(embeddings, sizes, canvas, plain, truth)


@torch.inference_mode()
def fused_scores(network: DeviceModel, case: Case) -> torch.Tensor:
    """Return the scores of the step that the server runs, soft-capped."""
    denoiser = network._denoiser
    slots = torch.arange(len(case.canvas), device=case.canvas.device)
    denoiser.prefill(case.embeddings.to(denoiser.embedding.dtype), case.lengths, slots)
    state = denoiser.slots
    state.prompts[slots] = case.lengths
    state.widths[slots] = CANVAS
    state.canvas[slots, :CANVAS] = case.canvas
    state.soft[slots] = 0
    scores = denoiser.scores(*denoiser.units(slots, CANVAS)).float()
    cap = denoiser._cap
    return scores.div_(cap).tanh_().mul_(cap).view(len(slots), CANVAS, -1)


def tell(what: str, done: int, total: int) -> None:
    """Say how far a long part is, now and then."""
    if done % 5 == 0 or done == total:
        print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do everything; return what was measured."""
    device = torch.device(arguments.device)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "tiny": arguments.tiny,
        "float32_tiny": exact(device),
    }
    print(json.dumps(report), flush=True)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    began = wait(device)
    model = build(arguments.tiny, device, dtype)
    report["build_seconds"] = round(wait(device) - began, 1)
    report["parameters"] = sum(p.numel() for p in model.parameters())
    report["backbone_parameters"] = sum(p.numel() for p in model.decoder.parameters())
    report["trained_parameters"] = sum(p.numel() for p in model.trained().values())
    if device.type == "cuda":
        report["weights_gb"] = round(torch.cuda.memory_allocated(device) / 1e9, 2)
    print(json.dumps(report), flush=True)
    report["agreement"], case = agreement(model, device, 1 if device.type == "cpu" else 4)
    print(json.dumps(report["agreement"]), flush=True)
    report["options"] = {
        "kernels": arguments.kernels,
        "weights": arguments.weights,
        "conditioning_words": arguments.conditioning_words,
    }
    model.config = replace(model.config, canvas=CanvasConfig(buckets=(64, 192)))
    began = wait(device)
    network = speed_up(model, device, RecogniserConfig(**report["options"]), tell)
    report["graph_seconds"] = round(wait(device) - began, 1)
    if isinstance(network, DeviceModel):
        report["agreement"]["fused"] = distance(fused_scores(network, case), case.truth)
        print(json.dumps(report["agreement"]["fused"]), flush=True)
    del case
    report["batches"] = list(batches(arguments, model, network, device))
    report["holds"] = {
        "same_canvas_in_float32": report["float32_tiny"]["exact"],
        "memory": all(batch["peak_gb"] < LIMIT_GB for batch in report["batches"]),
        **accuracy(report["agreement"], arguments.weights),
    }
    return report


def accuracy(agreement: dict[str, Any], weights: str) -> dict[str, bool]:
    """Say of each path whether it is as near to the truth as transformers; float8 need not be."""
    limit = LARGEST_ERROR * agreement["theirs"]["error"]
    paths = ["plain"] + ["fused"] * ("fused" in agreement and weights == "full")
    return {f"{path}_is_as_exact": agreement[path]["error"] <= limit for path in paths}


def batches(
    arguments: argparse.Namespace, model: Any, network: Network, device: torch.device
) -> Iterator[dict[str, float]]:
    """Transcribe batches of each size through the recogniser; yields what each cost."""
    for seconds, canvas in ((10.0, 64), (30.0, 192)):
        # One size, so that no row begins again on a larger canvas: noise has no end of text.
        model.config = replace(model.config, canvas=CanvasConfig(buckets=(canvas,)))
        recogniser = DiffusionRecogniser(network, Numbered(), device, arguments.steps)
        recogniser.warm_up()
        for rows in map(int, arguments.rows.split(",")):
            try:
                if device.type == "cuda":
                    # What a GPU does for the first time takes longer.
                    transcribe(recogniser, rows, seconds, 2, device)
                batch = transcribe(recogniser, rows, seconds, arguments.steps, device)
            except torch.cuda.OutOfMemoryError:
                batch = {"rows": rows, "seconds": seconds, "peak_gb": 1e9}
            print(json.dumps(batch), flush=True)
            yield batch


def table(report: dict[str, Any]) -> str:
    """Return the short table."""
    agree = report["agreement"]
    lines = [
        f"{report['device']}, torch {report['torch']}, {report['parameters'] / 1e9:.2f} B "
        f"parameters, of them {report['trained_parameters'] / 1e6:.1f} M trained, "
        f"built in {report['build_seconds']} s, weights {report.get('weights_gb', 0)} GB",
        f"float32, tiny: {report['float32_tiny']['same_canvas']} of "
        f"{report['float32_tiny']['steps']} canvases the same as transformers'",
        "error of the scores against the truth: "
        + ", ".join(f"{who} {agree[who]['error']}" for who in EXACTNESS if who in agree),
        "rows  seconds  canvas  steps  start ms  step ms  ms a row  x real time  peak GB",
    ]
    lines += [
        f"{b['rows']:4d}  {b['seconds']:7.0f}  {b['canvas']:6d}  {b['steps']:5d}"
        f"  {b['start_ms']:8.1f}  {b['step_ms']:7.1f}  {b['row_ms']:8.1f}"
        f"  {b['times_real_time']:11.1f}  {b['peak_gb']:7.1f}"
        if "canvas" in b
        else f"{b['rows']:4d}  {b['seconds']:7.0f}  out of memory"
        for b in report["batches"]
    ]
    return "\n".join([*lines, f"holds: {report['holds']}"])


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a network of thousands of parameters")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", default="1,8,32", help="batch sizes")
    parser.add_argument(
        "--kernels", choices=("plain", "auto"), default="plain", help="as the server's option"
    )
    parser.add_argument("--weights", choices=("full", "float8"), default="full")
    parser.add_argument("--conditioning-words", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8, help="denoising steps")
    parser.add_argument("--json", type=Path, help="file to write what was measured into")
    arguments = parser.parse_args()
    report = measure(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    return 0 if all(report["holds"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
