"""The command ``stream-server bench``: how fast a decode is, how many streams a server bears."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated

import torch
import typer

from stream_server.evaluation import decode_bench
from stream_server.evaluation.decode_bench import Shape
from stream_server.recogniser.denoise import SamplerConfig
from stream_server.recogniser.denoiser import Denoiser
from stream_server.recogniser.kernels.choice import (
    Kernels,
    grouped_kernels,
    pick_kernels,
    plain_kernels,
)

app = typer.Typer(no_args_is_help=True, help="Measure speed.", add_completion=False)


@app.callback()
def _root() -> None:
    """Measure speed."""


@app.command()
def decode(
    shapes: Annotated[
        str, typer.Option(help="Rows x canvas (x prompt), by commas.")
    ] = "1x64,8x64,32x64,1x192,8x192,32x192",
    steps: Annotated[int, typer.Option(help="Denoising steps.", min=1)] = 8,
    random_full_size: Annotated[
        bool, typer.Option(help="DiffusionGemma's size with random weights, on a GPU.")
    ] = False,
    top: Annotated[
        int, typer.Option(help="Words of self-conditioning; 0 is all of them.", min=0)
    ] = 0,
    stock: Annotated[bool, typer.Option(help="Measure transformers beside it.")] = True,
    without: Annotated[
        str, typer.Option(help="Fused kernels to leave out, by commas; 'all' for every one.")
    ] = "",
    float8: Annotated[
        str, typer.Option(help="'experts' or 'all': weights in float8; no stock beside it.")
    ] = "",
    profile: Annotated[bool, typer.Option(help="Also list each shape's kernels.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for decode.json.")] = Path(),
) -> None:
    """Time decodes over a grid of shapes, ours, stock transformers and the floor side by side."""
    wanted = [Shape.parse(each) for each in shapes.split(",")]
    device = torch.device("cuda" if torch.cuda.is_available() and random_full_size else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.inference_mode():
        if random_full_size:
            from stream_server.evaluation.full_size import TEXT, build_random

            model, sampler = build_random(TEXT, device, dtype), SamplerConfig()
        else:
            from stream_server.recogniser.checkpoint import EMBEDDED, load_model

            network, _ = load_model(EMBEDDED)
            model, sampler = network.decoder.model, network.config.sampler
            del network
        kernels = _choose(pick_kernels(device), without, device)
        denoiser = Denoiser(
            model,
            kernels,
            sampler,
            slots=max(shape.rows for shape in wanted),
            capacity=max(shape.prompt + shape.canvas for shape in wanted),
            width=max(shape.canvas for shape in wanted),
            top=top,
        )
        limits = decode_bench.measure_ceilings(device, dtype)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        print(f"{name}: {limits}", flush=True)
        agreement: dict[str, object] = {}
        if float8:
            before = decode_bench.scores_of(denoiser, wanted[0])
            # Only the denoiser holds the weights now: each layer's memory is free once it is done.
            del model
            model, stock = None, False
            gc.collect()
            denoiser.quantise(dense=float8 == "all")
            if device.type == "cuda":
                torch.cuda.empty_cache()
            after = decode_bench.scores_of(denoiser, wanted[0])
            agreement = {"float8": decode_bench.difference(after, before)}
            print(f"float8 against {dtype}: {agreement}", flush=True)
        if stock:
            try:
                agreement = decode_bench.compare(model, denoiser, wanted[0])
            except Exception as error:  # Times without agreement still tell where they go.
                agreement = {"failed": f"{type(error).__name__}: {error}"[:2000]}
            print(f"against stock: {agreement}", flush=True)
        results = []
        kernel_times: dict[str, list[tuple[str, float, int]]] = {}
        for shape in wanted:
            results.append(decode_bench.measure(model, denoiser, shape, steps, limits, stock))
            print(results[-1].to_json(), flush=True)
            if profile and device.type == "cuda":
                try:
                    times = decode_bench.profile(denoiser, shape)
                    kernel_times[f"{shape.rows}x{shape.canvas}"] = times
                except Exception as error:
                    print(f"no profile: {error}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    document = {
        "date": date.today().isoformat(),
        "machine": name,
        "torch": torch.__version__,
        "kernels": kernels.name,
        "top": top,
        "bytes_per_ms": limits.bytes_per_ms,
        "operations_per_ms": limits.operations_per_ms,
        "agreement": agreement,
        "float8": float8,
        "kernel_times": kernel_times,
        "results": [each.to_json() for each in results],
    }
    (out / "decode.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    for shape_name, times in kernel_times.items():
        print(f"--- kernels of one step, {shape_name}: ms, launches")
        for kernel, ms, count in times:
            print(f"{ms:9.3f} {count:5} {kernel}")
    print(decode_bench.table(results))


def _choose(kernels: Kernels, without: str, device: torch.device) -> Kernels:
    """Replace the kernels named in ``without`` by PyTorch's."""
    if not without:
        return kernels
    other = grouped_kernels() if device.type == "cuda" else plain_kernels()
    if without == "all":
        return other
    names = without.split(",")
    changed = {name: getattr(other, name) for name in names}
    return replace(kernels, name=f"{kernels.name} without {without}", **changed)


if __name__ == "__main__":
    app()


__all__ = ["app"]
