# ruff: noqa: B023
"""Check and time each kernel of a denoising step at full size, on one GPU.

    python tests/benchmarks/kernels.py [--seconds 150] [--out FOLDER]

Every kernel is compared with its plain PyTorch reference before it is timed; a part that fails
says so and the others go on. Writes ``kernels.json`` and prints a table last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "protocol")]

from stream_server.recogniser.kernels import (  # noqa: E402
    plain,
    triton_attention,
    triton_experts,
    triton_norms,
    triton_vocabulary,
)
from stream_server.recogniser.kernels.triton_experts import Block, Tiles  # noqa: E402

HIDDEN, INNER, EXPERTS, CHOICES, VOCABULARY = 2816, 704, 128, 8, 262144
CAP = 30.0


@dataclass
class Run:
    """What came out, and until when to go on."""

    until: float
    sweep: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: str, what: str, tokens: int, ms: float | None, **more: Any) -> None:
        self.rows.append({"part": part, "what": what, "tokens": tokens, "ms": ms, **more})
        print(self.rows[-1], flush=True)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.until


def timed(call: Callable[[], object], repeat: int = 20) -> float:
    """Return the median milliseconds of a call, by events, after warm-ups."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    marks = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(repeat)
    ]
    for begin, end in marks:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    times = sorted(begin.elapsed_time(end) for begin, end in marks)
    return times[len(times) // 2]


def error(out: Tensor, reference: Tensor) -> float:
    """Return the relative error of ``out``."""
    difference = (out.double() - reference.double()).norm() / reference.double().norm()
    return float(difference)


def normal(*shape: int, scale: float = 1.0, kind: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda").mul_(scale).to(kind)


def ceilings(run: Run) -> None:
    big = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(big)
    ms = timed(lambda: other.copy_(big), 10)
    run.add("ceiling", "copy, TB/s", 0, ms, rate=2 * big.numel() / ms / 1e9)
    left, right = normal(8192, 8192), normal(8192, 8192)
    ms = timed(lambda: left @ right, 10)
    run.add("ceiling", "bf16 product, TFLOP/s", 0, ms, rate=2 * 8192**3 / ms / 1e9)


def vocabulary(run: Run) -> None:
    table = normal(VOCABULARY, HIDDEN, scale=0.02)
    for tokens in (64, 192, 2048, 6144):
        scores = torch.empty(tokens, VOCABULARY, dtype=torch.bfloat16, device="cuda")
        scores.normal_(0, 5)
        heat = torch.rand(tokens, device="cuda") * 0.4 + 0.4
        uniform = torch.rand(tokens, device="cuda")
        part = slice(0, 64)
        wanted = plain.read_vocabulary(scores[part], heat[part], uniform[part], CAP, 32)
        got = triton_vocabulary.read_vocabulary(scores, heat, uniform, CAP, 32)
        says = {
            "argmax_differs": int((got.argmax[part] != wanted.argmax).sum()),
            # Ties in bfloat16: what counts is that the score is the same.
            "argmax_score_differs": int(
                (scores[part].gather(1, got.argmax[part, None].long())
                 != scores[part].gather(1, wanted.argmax[:, None])).sum()
            ),
            "sampled_differs": int((got.sampled[part] != wanted.sampled).sum()),
            "entropy_error": error(got.entropy[part], wanted.entropy),
            "probability_error": error(got.probability[part], wanted.probability),
            "top_weights_error": error(
                got.weights[part].sort().values, wanted.weights.sort().values
            ),
            "spread_error": error(
                triton_vocabulary.spread(scores[part].clone(), heat[part],
                    triton_vocabulary.read_vocabulary(scores[part], heat[part], uniform[part], CAP),
                    CAP),
                plain.spread(scores[part].clone(), heat[part], wanted, CAP),
            ),
        }  # fmt: skip
        del wanted
        fused = triton_vocabulary
        ms = timed(lambda: fused.read_vocabulary(scores, heat, uniform, CAP, 0))
        run.add("vocabulary", "read", tokens, ms, **says)
        ms = timed(lambda: fused.read_vocabulary(scores, heat, uniform, CAP, 32))
        run.add("vocabulary", "read + top 32", tokens, ms)
        top = fused.read_vocabulary(scores, heat, uniform, CAP, 32)
        ms = timed(lambda: fused.mix_embeddings(table, top.places, top.weights))
        run.add("vocabulary", "mix 32", tokens, ms)
        ms = timed(lambda: fused.spread(scores, heat, top, CAP))
        run.add("vocabulary", "spread", tokens, ms)
        ms = timed(lambda: scores @ table, 5)
        run.add("vocabulary", "distribution @ embeddings", tokens, ms)
        hidden = normal(tokens, HIDDEN)
        ms = timed(lambda: functional.linear(hidden, table), 5)
        run.add("vocabulary", "head", tokens, ms)
        if tokens <= 2048:
            ms = timed(lambda: plain.read_vocabulary(scores, heat, uniform, CAP), 3)
            run.add("vocabulary", "read, plain", tokens, ms)
        torch.cuda.empty_cache()


def grouped(hidden: Tensor, chosen: Tensor, shares: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Do what transformers does with ``grouped_mm``."""
    tokens, choices = chosen.shape
    order = torch.argsort(chosen.view(-1))
    ends = torch.cumsum(
        torch.histc(chosen.view(-1).int(), bins=EXPERTS, min=0, max=EXPERTS - 1), 0
    ).int()
    both = torch._grouped_mm(hidden[order // choices], up.transpose(1, 2), offs=ends)
    first, second = both.chunk(2, dim=-1)
    inner = functional.gelu(first, approximate="tanh") * second
    out = torch._grouped_mm(inner, down.transpose(1, 2), offs=ends)
    out = out * shares.view(-1)[order, None]
    back = torch.empty_like(order)
    back[order] = torch.arange(order.shape[0], device=order.device)
    return out[back].view(tokens, choices, HIDDEN).sum(1).to(hidden.dtype)


def first_blocks(tokens: int) -> list[tuple[int, Block]]:
    sizes = {64: [16], 192: [16, 32], 512: [16, 32, 64], 2048: [64, 128], 6144: [64, 128]}[tokens]
    found = []
    for m, n, k, warps, stages in itertools.product(
        sizes, (32, 64, 128), (64, 128), (4, 8), (3, 4, 5)
    ):
        memory = (m + 2 * n) * k * 2 * stages
        if memory > 220_000 or m * n < 16 * 64 or (m * n * 2 > 128 * 128 * 2):
            continue
        if m <= 32 and (warps == 8 and n < 128):
            continue
        if m >= 64 and (stages == 5 or n == 32):
            continue
        found.append((m, Block(n, k, warps, stages)))
    return found


def experts(run: Run) -> None:
    up = normal(EXPERTS, 2 * INNER, HIDDEN, scale=0.02)
    down = normal(EXPERTS, HIDDEN, INNER, scale=0.02)
    scale = torch.ones(EXPERTS, device="cuda")
    scales = (up.float().abs().amax(2) / 448, down.float().abs().amax(2) / 448)
    small_up = (up.float() / scales[0][..., None]).to(torch.float8_e4m3fn)
    small_down = (down.float() / scales[1][..., None]).to(torch.float8_e4m3fn)
    for tokens in (192, 2048, 64, 512, 6144):
        hidden = normal(tokens, HIDDEN)
        router = normal(tokens, EXPERTS)
        chosen, shares = triton_experts.route(router, scale, CHOICES)
        wanted_chosen, wanted_shares = plain.route(router, scale, CHOICES)
        same = (chosen.sort().values == wanted_chosen.sort().values).float().mean()
        ms = timed(lambda: triton_experts.route(router, scale, CHOICES))
        run.add("experts", "route", tokens, ms, same=float(same),
                share_error=error(shares.sum(1), wanted_shares.sum(1)))  # fmt: skip
        wanted = grouped(hidden, chosen.long(), shares, up, down)
        floor = 3 * EXPERTS * HIDDEN * INNER * 2 / 4.3e9
        floor = max(floor, tokens * CHOICES * 3 * HIDDEN * INNER * 2 / 790e9)
        ms = timed(lambda: grouped(hidden, chosen.long(), shares, up, down))
        run.add("experts", "stock grouped_mm", tokens, ms, floor_ms_h200=floor)

        def mixed(pairs: Tensor, shares: Tensor = shares) -> Tensor:
            return (pairs.float() * shares[..., None]).sum(1)

        out = triton_experts.run_experts(hidden, chosen, up, down)
        ms = timed(lambda: triton_experts.run_experts(hidden, chosen, up, down))
        run.add("experts", "fused, default", tokens, ms, error=error(mixed(out), wanted))
        out = triton_experts.run_experts(hidden, chosen, small_up, small_down, scales)
        ms = timed(lambda: triton_experts.run_experts(hidden, chosen, small_up, small_down, scales))
        run.add("experts", "fused, float8", tokens, ms, error=error(mixed(out), wanted))
        sweep(run, tokens, hidden, chosen, up, down, False)
        sweep(run, tokens, hidden, chosen, small_up, small_down, True, scales)
        if run.is_over:
            run.add("experts", "out of time", tokens, None)
            return


def sweep(
    run: Run, tokens: int, hidden: Tensor, chosen: Tensor, up: Tensor, down: Tensor,
    quant: bool, scales: tuple[Tensor, Tensor] | None = None,
) -> None:  # fmt: skip
    """Time the products in every way to cut them, each alone."""
    name = "float8 " if quant else ""
    results: dict[str, list[tuple[float, str]]] = {"first": [], "second": []}
    until = time.monotonic() + run.sweep * (0.5 if quant else 1.0)
    sorted_for: dict[int, tuple[Tensor, Tensor]] = {}
    inner = normal(tokens * CHOICES, INNER)
    pair = None
    token = None
    if quant and scales is not None:
        hidden, token = triton_experts.quantise_rows(hidden)
        inner, pair = triton_experts.quantise_rows(inner)
    cases = first_blocks(tokens)
    # Alternate through the list so that a cut-off still covers its range.
    step = 7 if len(cases) % 7 else 5
    for m, block in [cases[index * step % len(cases)] for index in range(len(cases))]:
        if time.monotonic() > until or run.is_over:
            break
        if m not in sorted_for:
            sorted_for[m] = triton_experts.sort_pairs(chosen, EXPERTS, m)
            if not quant:
                ms = timed(lambda m=m: triton_experts.sort_pairs(chosen, EXPERTS, m))
                run.add("experts", f"sort for {m}", tokens, ms)
        order, table = sorted_for[m]
        tiles = Tiles(m, block, block)
        label = f"{m} {block.columns}x{block.depth} w{block.warps} s{block.stages}"
        first_scales = (token, scales[0]) if quant and scales else None
        second_scales = (pair, scales[1]) if quant and scales else None
        for which, call in (
            ("first", lambda o=order, t=table, b=tiles, f=first_scales:
                triton_experts.first_product(hidden, up, o, t, CHOICES, b, f)),
            ("second", lambda o=order, t=table, b=tiles, f=second_scales:
                triton_experts.second_product(inner, down, o, t, b, f)),
        ):  # fmt: skip
            try:
                results[which].append((timed(call, 7), label))
            except Exception as problem:
                results[which].append((1e9, f"{label}: {type(problem).__name__}"))
    for which, found in results.items():
        found.sort()
        for ms, label in found[:4]:
            run.add("experts", f"{name}{which} {label}", tokens, ms, tried=len(found))


def rest(run: Run) -> None:
    for tokens in (192, 2048):
        residual, dense = normal(tokens, HIDDEN), normal(tokens, HIDDEN)
        weights = normal(4, HIDDEN)
        pairs, shares = normal(tokens, CHOICES, HIDDEN), torch.rand(tokens, CHOICES).cuda()
        scalar = torch.ones(1, device="cuda", dtype=torch.bfloat16)
        for name, arguments in {
            "norm": (dense, weights[0], 1e-6),
            "gate": (normal(tokens, 4224),),
            "after_attention": (dense, residual, weights, 1e-6),
            "after_experts": (dense, pairs, shares, residual, weights, scalar, 1e-6),
        }.items():
            fused, stock = getattr(triton_norms, name), getattr(plain, name)
            out, wanted = fused(*arguments), stock(*arguments)
            if isinstance(out, tuple):  # without the float8 that nobody asked for
                out, wanted = out[:2], wanted[:2]
            worst = max(
                error(a, b)
                for a, b in (
                    zip(out, wanted, strict=True) if isinstance(out, tuple) else [(out, wanted)]
                )
            )
            ms, plain_ms = timed(lambda: fused(*arguments)), timed(lambda: stock(*arguments))
            run.add("rest", name, tokens, ms, plain_ms=plain_ms, error=worst)
    shapes = itertools.product(((1, 192), (32, 64), (32, 192)), ((8, 256), (2, 512)))
    for (rows, width), (groups, size) in shapes:
        prompt = 210 if width == 192 else 80
        capacity = 512
        caches = (normal(40, groups, capacity, size), normal(40, groups, capacity, size))
        slots = torch.randperm(40, device="cuda")[:rows]
        starts = torch.full((rows,), prompt, device="cuda")
        place = plain.Place(rows, width, 16, slots, starts, starts + width, False)
        own = groups == 8
        qkv = normal(rows * width, (16 + (2 if own else 1) * groups) * size)
        heads = (normal(size), normal(size))
        rotary = plain.Rotary(normal(capacity, size), normal(capacity, size))
        other = (caches[0].clone(), caches[1].clone())
        query = triton_norms.rotate(qkv, heads, rotary, caches, place, 1e-6)
        wanted = plain.rotate(qkv, heads, rotary, other, place, 1e-6)
        ms = timed(lambda: triton_norms.rotate(qkv, heads, rotary, caches, place, 1e-6))
        worst = max(error(query, wanted), error(caches[0], other[0]), error(caches[1], other[1]))
        run.add("rest", f"rotate {size}", rows * width, ms, error=worst)
        query = query * 0.02
        out = triton_attention.attend(query, caches, place)
        wanted = plain.attend(query, caches, place)
        ms = timed(lambda: triton_attention.attend(query, caches, place))
        plain_ms = timed(lambda: plain.attend(query, caches, place), 5)
        run.add("rest", f"attend {size}", rows * width, ms, plain_ms=plain_ms,
                error=error(out, wanted))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--sweep", type=float, default=12.0, help="seconds for a batch size")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--only", default="ceilings,rest,vocabulary,experts")
    options = parser.parse_args()
    run = Run(time.monotonic() + options.seconds, options.sweep)
    torch.manual_seed(0)
    parts = {"ceilings": ceilings, "rest": rest, "vocabulary": vocabulary, "experts": experts}
    with torch.inference_mode():
        for name in options.only.split(","):
            try:
                parts[name](run)
            except Exception:
                run.add(name, "FAILED", 0, None, problem=traceback.format_exc(limit=4)[-1500:])
            torch.cuda.empty_cache()
    options.out.mkdir(parents=True, exist_ok=True)
    machine = torch.cuda.get_device_name()
    document = {"machine": machine, "torch": torch.__version__, "rows": run.rows}
    (options.out / "kernels.json").write_text(json.dumps(document, indent=1))
    print(f"--- {machine}")
    for row in run.rows:
        ms = "-" if row["ms"] is None else f"{row['ms']:.3f}"
        more = {
            key: value for key, value in row.items() if key not in ("part", "what", "tokens", "ms")
        }  # noqa: E501
        shown = " ".join(
            f"{key}={value:.2g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in more.items()
        )
        print(f"{row['part']:10} {row['what']:34} {row['tokens']:5} {ms:>9} {shown}"[:180])


if __name__ == "__main__":
    main()
