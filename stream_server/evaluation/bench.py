"""The command ``stream-server bench``: how fast a decode is, how many streams a server bears."""

from __future__ import annotations

import gc
import json
import math
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from stream_client.load import LoadPlan, LoadReport, find_files
from stream_protocol.messages import Endpointing, Start
from stream_server.config import SchedulerConfig
from stream_server.errors import ConfigError
from stream_server.evaluation import bench_picture, decode_bench, rehearsal
from stream_server.evaluation.capacity import Goal, Measure, find_capacity, running_server
from stream_server.evaluation.decode_bench import Ceilings, Result, Shape
from stream_server.evaluation.machine_costs import MACHINES
from stream_server.evaluation.turns import TurnWatch
from stream_server.progress import Progress
from stream_server.recogniser.backbone import FULL_SIZE, random_gemma
from stream_server.recogniser.checkpoint import EMBEDDED, load_model
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
    float8: Annotated[str, typer.Option(help="'experts' or 'all': our weights in float8.")] = "",
    profile: Annotated[bool, typer.Option(help="Also list each shape's kernels.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="JSON file to write; a picture goes beside it.")
    ] = None,
) -> None:
    """Time decodes over a grid of shapes, ours, stock transformers and the floor side by side."""
    wanted = _parse_shapes(shapes)
    if float8 not in ("", "experts", "all"):
        raise ConfigError("float8", float8, "'experts' or 'all'")
    device = torch.device("cuda" if torch.cuda.is_available() and random_full_size else "cpu")
    with torch.inference_mode():
        with Progress("building the model"):
            model, sampler = _build(random_full_size, device)
        kernels = _choose(pick_kernels(device), without, device)
        denoiser = _denoiser(model, kernels, sampler, wanted, top)
        limits = decode_bench.measure_ceilings(device, denoiser.embedding.dtype)
        document = _describe(device, kernels, limits) | {"top": top, "float8": float8}
        print(json.dumps(document), flush=True)
        results, kernel_times = [Result(shape, steps) for shape in wanted], {}
        if stock and not float8:
            document["agreement"] = decode_bench.compare(model, denoiser, wanted[0])
        if stock:
            for result in results:
                decode_bench.measure_stock(model, denoiser, result)
        if float8:
            # Only the denoiser holds the weights then: a layer's memory is free once it is done.
            held, model = [model], None
            document["agreement"] = _quantise(held, denoiser, wanted[0], float8)
        print(f"agreement: {document.get('agreement')}", flush=True)
        for result in results:
            shape = result.shape
            decode_bench.measure(denoiser, result, limits)
            print(result.to_json(), flush=True)
            if profile and device.type == "cuda":
                kernel_times[shape.name] = decode_bench.profile(denoiser, shape)
    print(decode_bench.table(results))
    for name, times in kernel_times.items():
        print(f"--- kernels of one step, {name}: ms, launches")
        print("\n".join(f"{ms:9.3f} {count:5} {kernel}" for kernel, ms, count in times))
    if out is not None:
        document["kernel_times"] = kernel_times
        document["results"] = [each.to_json() for each in results]
        _write(out, document)
        bench_picture.draw_decode(document["machine"], results, out.with_suffix(".png"))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def capacity(
    context: typer.Context,
    most: Annotated[int, typer.Option(help="Streams to try at most.", min=1)] = 256,
    first: Annotated[int, typer.Option(help="Streams to begin with.", min=1)] = 4,
    gap: Annotated[
        float, typer.Option(help="How closely to search, as a share of the streams.", min=0)
    ] = 0.05,
    limit_ms: Annotated[float, typer.Option(help="Milliseconds that the latency may take.")] = 300,
    measure: Annotated[Measure, typer.Option(help="Whose 95th percentile.")] = Measure.FINAL,
    seconds: Annotated[float, typer.Option(help="Of audio of each stream.", min=1)] = 30,
    silence_ms: Annotated[int, typer.Option(help="Pause that ends a segment.")] = 200,
    partial_ms: Annotated[int, typer.Option(help="New audio between partials.")] = 1000,
    message_ms: Annotated[int, typer.Option(help="Audio in a message.", min=10)] = 100,
    files: Annotated[
        Path | None, typer.Option(help="Recording or folder; none is synthetic voices.")
    ] = None,
    processes: Annotated[int, typer.Option(help="Of the load generator.", min=1)] = 1,
    random_full_size: Annotated[
        bool, typer.Option(help="The published system's size with random weights, on a GPU.")
    ] = False,
    url: Annotated[
        str, typer.Option(help="Of a server that runs; none starts one of its own.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="JSON file to write; a picture goes beside it.")
    ] = None,
) -> None:
    """Find how many paced streams a real server bears; options after -- are the server's."""
    played = find_files(files) if files is not None else ()
    start = Start(partial_interval_ms=partial_ms, endpointing=Endpointing(silence_ms=silence_ms))
    plan = LoadPlan(url, first, played, start, seconds=seconds, chunk_ms=message_ms)
    goal = Goal(measure, limit_ms, first, most, gap)
    console = Console()
    document: dict[str, Any] = _describe_machine() | {
        "server": context.args,
        "random_full_size": random_full_size,
        "goal": asdict(goal),
        "seconds": seconds,
        "silence_ms": silence_ms,
        "partial_ms": partial_ms,
        "message_ms": message_ms,
        "remark": "stopped before its end",
        "capacity": None,
        "probes": [],
    }

    def tell(report: LoadReport) -> None:
        console.print(report.table())
        turns = watch.look()
        if turns is not None:
            console.print(f"{turns.mean_rows} rows a turn, {turns.mean_ms} ms, {turns.count} turns")
        document["probes"].append(asdict(report) | {"turns": turns and asdict(turns)})
        if out is not None:  # now: the whole search takes minutes, and may be stopped
            _write(out, document)

    with running_server(url, context.args, random_full_size) as address:
        watch = TurnWatch(address)
        found = find_capacity(replace(plan, url=address), goal, processes, tell)
    print(found.table())
    if out is not None:
        _write(out, document | {"remark": found.remark, "capacity": found.streams})
        bench_picture.draw_capacity(found, out.with_suffix(".png"))


@app.command()
def rehearse(
    machine: Annotated[
        str, typer.Option(help=f"Whose figures: {', '.join(each.name for each in MACHINES)}.")
    ] = MACHINES[0].name,
    most: Annotated[int, typer.Option(help="Streams to try at most.", min=1)] = 256,
    first: Annotated[int, typer.Option(help="Streams to begin with.", min=1)] = 16,
    limit_ms: Annotated[float, typer.Option(help="Milliseconds that a final may take.")] = 300,
    seconds: Annotated[float, typer.Option(help="Of audio of each stream.", min=1)] = 15,
    silence_ms: Annotated[int, typer.Option(help="Pause that ends a segment.")] = 200,
    partial_ms: Annotated[int, typer.Option(help="New audio between partials.")] = 1000,
    message_ms: Annotated[int, typer.Option(help="Audio in a message.", min=10)] = 100,
    partial_steps: Annotated[int, typer.Option(help="Denoising steps of a partial.", min=1)] = 3,
    start_ms: Annotated[
        str, typer.Option(help="Of each start and of each row in it, as 2.5,1.2, if known better.")
    ] = "",
) -> None:
    """Find how many streams a machine would bear, in virtual time, by what was measured on it."""
    found = {each.name: each for each in MACHINES}
    if machine not in found:
        raise ConfigError("machine", machine, f"one of {', '.join(found)}")
    costs = found[machine]
    if start_ms:
        costs = replace(costs, listen=_parse_pair("start_ms", start_ms))
    start = Start(partial_interval_ms=partial_ms, endpointing=Endpointing(silence_ms=silence_ms))
    plan = LoadPlan("", first, (), start, seconds=seconds, chunk_ms=message_ms)
    config = SchedulerConfig(busy_share=0)

    def run(plan: LoadPlan, processes: int) -> LoadReport:
        heard = rehearsal.rehearse(plan, costs, config, partial_steps=partial_steps)
        print(f"{plan.streams} streams: {heard.remark}", flush=True)
        return heard.report

    print(find_capacity(plan, Goal(Measure.FINAL, limit_ms, first, most), run=run).table())


def _parse_pair(name: str, text: str) -> tuple[float, float]:
    try:
        one, other = (float(each) for each in text.split(","))
    except ValueError:
        raise ConfigError(name, text, "two numbers of milliseconds, as 2.5,1.2") from None
    return one, other


def _parse_shapes(text: str) -> list[Shape]:
    try:
        return [Shape.parse(each) for each in text.split(",")]
    except (TypeError, ValueError):
        raise ConfigError("shapes", text, "ROWSxCANVAS or ROWSxCANVASxPROMPT, by commas") from None


def _build(random_full_size: bool, device: torch.device) -> tuple[Any, SamplerConfig]:
    """Return transformers' model and how it is sampled."""
    if not random_full_size:
        network, _ = load_model(EMBEDDED)
        return network.decoder.model, network.config.sampler
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = random_gemma(FULL_SIZE, device, dtype)
    model.set_experts_implementation("grouped_mm")
    return model, SamplerConfig()


def _denoiser(
    model: Any, kernels: Kernels, sampler: SamplerConfig, shapes: list[Shape], top: int
) -> Denoiser:
    return Denoiser(
        model,
        kernels,
        sampler,
        slots=max(shape.rows for shape in shapes),
        capacity=max(shape.prompt + shape.canvas for shape in shapes),
        width=max(shape.canvas for shape in shapes),
        top=top,
        unit=math.gcd(*(shape.canvas for shape in shapes)),
    )


def _quantise(held: list[Any], denoiser: Denoiser, shape: Shape, how: str) -> dict[str, float]:
    """Put weights into float8; return what that does to the scores of a step.

    Args:
        held: transformers' model, the only reference to it: it is let go.
        denoiser: whose weights.
        shape: that is compared.
        how: ``experts`` or ``all``.
    """
    before = decode_bench.scores_of(denoiser, shape)
    held.clear()
    gc.collect()
    denoiser.quantise(dense=how == "all")
    if before.device.type == "cuda":
        torch.cuda.empty_cache()
    return decode_bench.difference(decode_bench.scores_of(denoiser, shape), before)


def _describe_machine() -> dict[str, Any]:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": name,
        "torch": str(torch.__version__),
    }


def _describe(device: torch.device, kernels: Kernels, limits: Ceilings) -> dict[str, Any]:
    described = _describe_machine() | {"kernels": kernels.name, **asdict(limits)}
    return described if device.type == "cuda" else {**described, "machine": "CPU"}


def _write(path: Path, document: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError("out", str(path), f"a file that can be written: {error}") from error


def _choose(kernels: Kernels, without: str, device: torch.device) -> Kernels:
    """Replace the kernels named in ``without`` by PyTorch's."""
    if not without:
        return kernels
    other = grouped_kernels() if device.type == "cuda" else plain_kernels()
    if without == "all":
        return other
    names = without.split(",")
    known = set(Kernels.__dataclass_fields__) - {"name"}
    if not known.issuperset(names):
        raise ConfigError("without", without, f"'all', or some of {', '.join(sorted(known))}")
    changed: dict[str, Any] = {name: getattr(other, name) for name in names}
    return replace(kernels, name=f"{kernels.name} without {without}", **changed)


__all__ = ["app"]
