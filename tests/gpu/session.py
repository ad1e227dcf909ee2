"""Measure everything that needs a GPU, stage after stage, within a stretch of time.

    CUDA_VISIBLE_DEVICES=3 python tests/gpu/session.py --out OUT --wheels .whl --budget 540
    python tests/gpu/session.py --out OUT --resume      # those stages that have not run yet
    python tests/gpu/session.py --out OUT --tiny        # every stage's command in minutes on a CPU

A stage has its own process and limit, and in OUT its own log and JSON file. One that fails or
hangs ends alone. ``OUT/session.json`` says after each stage how it went;
``OUT/session.tgz`` holds everything. The order is that of value. One GPU of 80 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STOPPED = -9
"""Status of a stage that took too long."""
LEAST = 0.6
"""A stage begins only if so much of its limit is left of the whole."""
FIRST = "packages"
"""Stage that fails where a package is missing: nothing else is tried then."""
GRID = "1x64,1x192,32x64,32x192"
BETWEEN = "1x32,2x32,2x64,4x64,8x64,16x64"
SERVER = ("-c", "from stream_server.cli import main; main()", "bench")


@dataclass(frozen=True)
class Stage:
    """One command of Python's."""

    name: str
    seconds: float
    """After which it is stopped."""
    command: tuple[str, ...]


@dataclass(frozen=True)
class Ran:
    """How a stage went."""

    name: str
    status: int
    """That it ended with; :data:`STOPPED` where it was stopped."""
    seconds: float


def plan(out: Path, tiny: bool) -> list[Stage]:
    """Return the stages, the most valuable first."""
    size = ("--tiny", "--device", "cpu", "--rows", "1") if tiny else ("--kernels", "auto")
    large = () if tiny else ("--random-full-size",)

    def decode(name: str, *options: str, grid: str = GRID, seconds: float = 270) -> Stage:
        shapes = "1x32x40" if tiny else grid
        output = ("--out", str(out / f"{name}.json"))
        command = (*SERVER, "decode", *large, "--shapes", shapes, *options, *output)
        return Stage(name, seconds, command)

    def here(script: str) -> str:
        return str(Path(__file__).with_name(script))

    def full(name: str, *options: str) -> Stage:
        script = here("full_size.py")
        return Stage(name, 270, (script, *size, *options, "--json", str(out / f"{name}.json")))

    def capacity(name: str, first: int, *options: str) -> Stage:
        # The fake model stands in where the command alone is tried.
        served = ("--model", "fake") if tiny else (*options, *few_steps, "--max-sessions", "1024")
        search = ("--first", "2", "--most", "2")
        if not tiny:
            search = ("--first", str(first), "--gap", "0.25")
        more = ("--seconds", "6" if tiny else "15", "--processes", "1" if tiny else "6")
        output = ("--out", str(out / f"{name}.json"))
        command = (*SERVER, "capacity", *large, *search, *more, *output, "--", *served)
        # Building and recording a minute, a probe 22 s; the JSON has each probe as it ends.
        return Stage(name, 180, command)

    few_steps = ("--partial-steps", "2")
    few = ("--conditioning-words", "32")
    start = (here("start_cost.py"), *size, "--seconds", "4", "--silence", "1")
    float8 = () if tiny else ("--weights", "float8")
    tests = (
        *("-m", "pytest", "-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider"),
        *("-o", "timeout=200", "--continue-on-collection-errors"),
        *("tests/server/recogniser", "tests/server/evaluation/test_decode_bench.py"),
    )
    return [
        # The first six fit into 540 s. What is wrong is told before it is timed.
        Stage(FIRST, 60, (*SERVER, "capacity", "--help")),
        Stage("tests", 110, tests),
        capacity("capacity", 16, "--kernels", "auto"),
        capacity("capacity-float8-32-words", 32, "--weights", "float8", *few),
        Stage("start", 75, (*start, "--json", str(out / "start.json"))),
        decode("decode-between", "--no-stock", grid=BETWEEN, seconds=60),
        full("full-size"),
        decode("decode-float8-32-words", "--float8", "all", "--top", "32", "--profile"),
        decode("decode", "--profile"),
        decode("decode-float8", "--float8", "all", "--profile"),
        full("full-size-float8", *float8),
        decode("decode-32-words", "--no-stock", "--top", "32"),
        capacity("capacity-float8", 32, "--weights", "float8"),
    ]


def prepare(wheels: Path | None, out: Path) -> dict[str, str]:
    """Return the environment of the stages; what wheels hold comes after nothing else."""
    places = [str(ROOT), str(ROOT / "client"), str(ROOT / "protocol")]
    if wheels is not None:
        # A folder of its own: the machine's Python stays as it is.
        packages = Path(f"{out}-packages")
        if not packages.is_dir():
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
            files = [str(each) for each in sorted(wheels.glob("*.whl"))]
            subprocess.run([*install, "--target", str(packages), *files], check=True)
        places.append(str(packages))
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places + ([before] if before else []))}


def run(stage: Stage, seconds: float, environment: dict[str, str], log: Path) -> Ran:
    """Run a stage for at most ``seconds``; whatever it started ends with it."""
    began = time.monotonic()
    with log.open("w") as file:
        print("python", *stage.command, file=file, flush=True)
        process = subprocess.Popen(
            [sys.executable, *stage.command],
            cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = STOPPED
        finally:
            # Also where it ended well: a server that it left would keep the GPU's memory.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Ran(stage.name, status, round(time.monotonic() - began, 1))


def pack(out: Path) -> None:
    """Write everything into one file."""
    with tarfile.open(out / "session.tgz", "w:gz") as archive:
        for path in sorted(out.iterdir()):
            if path.name != "session.tgz":
                archive.add(path, path.name)


def tail(log: Path, lines: int = 25) -> str:
    """Return the end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def main() -> int:
    """Run the stages; the status is how many did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for logs and figures")
    parser.add_argument("--wheels", type=Path, help="folder of packages that Python lacks here")
    parser.add_argument("--budget", type=float, default=1200, help="seconds for everything")
    parser.add_argument("--only", default="", help="stages to run, by commas; none is all")
    parser.add_argument("--resume", action="store_true", help="pass over those that have run")
    parser.add_argument("--tiny", action="store_true", help="try the commands on a CPU")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.budget
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    environment = prepare(arguments.wheels, out)
    summary = out / "session.json"
    done: dict[str, Ran] = {}
    if arguments.resume and summary.is_file():
        ran = [Ran(**each) for each in json.loads(summary.read_text())]
        # What was stopped may only have come too late.
        done = {each.name: each for each in ran if each.status != STOPPED}
    wanted = arguments.only.split(",") if arguments.only else None
    for stage in plan(out, arguments.tiny):
        left = end - time.monotonic()
        if stage.name in done or (wanted is not None and stage.name not in wanted):
            continue
        if left < LEAST * stage.seconds:
            print(f"--- {stage.name}: no time left", flush=True)
            continue
        log = out / f"{stage.name}.log"
        done[stage.name] = run(stage, min(left, stage.seconds), environment, log)
        print(f"--- {done[stage.name]}\n{tail(log)}", flush=True)
        summary.write_text(json.dumps([asdict(each) for each in done.values()], indent=1))
        pack(out)
        if stage.name == FIRST and done[FIRST].status != 0:
            break
    for each in done.values():
        print(f"{each.name:28} status {each.status:4} {each.seconds:7.1f} s")
    return sum(each.status != 0 for each in done.values())


if __name__ == "__main__":
    raise SystemExit(main())
