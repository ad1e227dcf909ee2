"""Say where the time of ``start`` goes: audio to prompts and drafts, part by part.

    python tests/gpu/start_cost.py --json start.json       # one GPU of 80 GB, a minute
    python tests/gpu/start_cost.py --tiny --device cpu     # the same path in seconds

Each part is timed alone, the device waited for before and after it, the median of some runs. Then
``start`` as the server calls it, and once more with no memory kept from the run before. "calls" are
PyTorch's operations outside of graphs: what the host has to launch one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import torch  # noqa: E402
from full_size import Numbered, build, sound, wait  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from stream_server.config import RecogniserConfig  # noqa: E402
from stream_server.recogniser.device_model import DeviceModel, speed_up  # noqa: E402
from stream_server.recogniser.interface import Utterance  # noqa: E402
from stream_server.recogniser.model import CanvasConfig  # noqa: E402
from stream_server.recogniser.published import SLICE  # noqa: E402
from stream_server.recogniser.recogniser import DiffusionRecogniser  # noqa: E402

CANVAS = 64


@dataclass(frozen=True)
class Cost:
    """Milliseconds of each part of one ``start``."""

    rows: int
    seconds: float
    """Of audio in each row."""
    transfer: float
    """Audio to the device."""
    features: float
    encoder: float
    """Launched one by one; ``listen`` has it in a graph."""
    projector: float
    """The same."""
    listen: float
    """Features, encoder and projector as the server runs them."""
    prompt: float
    """Laying out the embeddings."""
    prefill: float
    """Prompts alone; the server runs them within the row's first step, where they cost less, so
    that ``start`` is without them."""
    head: float
    """Likeliest token and norm of every CTC frame."""
    draft: float
    """Frames to the host, as texts; the head in it."""
    start: float
    """All of it, as the engine calls it, canvases in it."""
    fresh: float
    """The same where the allocator had given its memory back before."""
    calls: int
    """Operations of one ``start``."""


class Calls(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def median(call: Callable[[], Any], device: torch.device, runs: int) -> float:
    """Return the milliseconds that a call takes; it runs once more before."""
    call()
    times = []
    for _ in range(runs):
        began = wait(device)
        call()
        times.append((wait(device) - began) * 1e3)
    return round(statistics.median(times), 2)


@torch.inference_mode()
def measure(
    model: Any, network: Any, device: torch.device, rows: int, seconds: float, runs: int
) -> Cost:
    """Time every part for one shape."""
    pcm = sound(rows, seconds)
    heard = pcm.to(device)
    lengths = torch.tensor([pcm.shape[1]] * rows, device=device)
    features, frames = model.features(heard, lengths)
    kind = next(model.encoder.parameters()).dtype
    states, counts = model.encoder(features.to(kind), frames)
    fast = isinstance(network, DeviceModel)
    listen = network._listen if fast else model.listen
    read = network._denoiser.read_head if fast else model.decoder.read_head
    tokens = listen(heard, lengths)
    sizes = lengths.tolist()
    embeddings, positions = model.prompt(tokens, [0] * rows, sizes)
    hop = model.samples_per_ctc_frame
    flat = tokens[:, : -(-pcm.shape[1] // hop)].to(model.decoder.dtype).flatten(0, 1)
    recogniser = DiffusionRecogniser(network, Numbered(), device, 8)
    said = [Utterance(pcm[row].numpy(), steps=8, seed=row) for row in range(rows)]

    def prefill() -> None:
        if not fast:
            model.decoder.prefill(embeddings, positions)
            return
        leases = network._leases.take(rows)
        slots = [lease.slot for lease in leases]
        network._unread |= dict.fromkeys(slots, -(-embeddings.shape[1] // network._denoiser.unit))
        network.read(slots)

    def start() -> None:
        recogniser._lay_out(recogniser.start(said))

    def clock(call: Callable[[], Any]) -> float:
        return median(call, device, runs)

    def fresh() -> float:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        began = wait(device)
        start()
        return round((wait(device) - began) * 1e3, 2)

    with Calls() as calls:
        start()
    return Cost(
        rows=rows,
        seconds=seconds,
        transfer=clock(lambda: pcm.to(device, copy=True)),
        features=clock(lambda: model.features(heard, lengths)),
        encoder=clock(lambda: model.encoder(features.to(kind), frames)),
        projector=clock(lambda: model.projector(states.float(), counts)),
        listen=clock(lambda: listen(heard, lengths)),
        prompt=clock(lambda: model.prompt(tokens, [0] * rows, sizes)),
        prefill=clock(prefill),
        head=clock(lambda: [read(part) for part in torch.split(flat, SLICE)]),
        draft=clock(lambda: [each.draft() for each in model.frames(tokens, sizes, read)]),
        start=clock(start),
        fresh=fresh(),
        calls=calls.count,
    )


def table(costs: list[Cost]) -> str:
    """Return what was measured, as Markdown."""
    names = list(asdict(costs[0]))
    lines = ["| " + " | ".join(names) + " |", "|" + "--:|" * len(names)]
    lines += [
        "| " + " | ".join(str(each) for each in asdict(cost).values()) + " |" for cost in costs
    ]
    return "\n".join(lines)


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a network of thousands of parameters")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", default="1,8,32", help="batch sizes")
    parser.add_argument("--seconds", default="10,30", help="of audio")
    parser.add_argument(
        "--silence", type=float, default=30.0, help="seconds of it that a prompt keeps"
    )
    parser.add_argument("--runs", type=int, default=5, help="of which the median is taken")
    parser.add_argument(
        "--kernels", choices=("plain", "auto"), default="auto", help="as the server's option"
    )
    parser.add_argument("--json", type=Path, help="file to write what was measured into")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model = build(arguments.tiny, device, dtype)
    canvas, silence = CanvasConfig(buckets=(32, CANVAS)), arguments.silence
    model.config = replace(model.config, canvas=canvas, silence_seconds=silence)
    network = speed_up(model, device, RecogniserConfig(kernels=arguments.kernels))
    costs = []
    for rows in map(int, arguments.rows.split(",")):
        for seconds in map(float, arguments.seconds.split(",")):
            costs.append(measure(model, network, device, rows, seconds, arguments.runs))
            print(json.dumps(asdict(costs[-1])), flush=True)
    if arguments.json:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        document = {"device": name, "torch": torch.__version__, "costs": list(map(asdict, costs))}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    print(table(costs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
