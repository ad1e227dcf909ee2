"""How many streams a server bears: paced clients on real sockets, more and more of them.

Streams are doubled until the goal is missed, then the gap is halved until it is small. A probe
misses the goal where a stream fails, where the latency is too long, or where nothing was said. The
search ends early where a probe proves nothing of the server's capacity: the load generator itself
was late, or the pause that proves an end is longer than the goal.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from stream_client.load import Latency, LoadPlan, LoadReport, run_load
from stream_server.errors import ConfigError, DiffscribeError

_READY = re.compile(r"diffscribe .* ready on http(s?://\S+)")
_STOP_SECONDS = 30
_LATE_MS = 150.0
"""A generator that is further behind measures itself."""


class Measure(StrEnum):
    """Which latency counts."""

    FIRST_PARTIAL = "first_partial"
    """From the start of speech to the first partial."""
    FINAL = "final"
    """From the end of speech to the final, the pause that proves the end included."""
    FINALISE = "finalise"
    """From the moment at which the server knows the end."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to hold, and where to look."""

    measure: Measure = Measure.FINAL
    limit_ms: float = 300.0
    """Of the 95th percentile."""
    first: int = 4
    """Streams to begin with."""
    most: int = 256
    """Streams to try at most."""
    gap: float = 0.05
    """Of the most that met the goal, how far above it the fewest that missed it may be."""

    def of(self, report: LoadReport) -> Latency:
        """Return the latency that counts."""
        latency: Latency = getattr(report, self.measure.value)
        return latency

    def is_met(self, report: LoadReport) -> bool:
        """Return whether every stream was served, in time."""
        latency = self.of(report)
        return report.failed == 0 and latency.count > 0 and latency.p95 <= self.limit_ms


@dataclass(frozen=True, slots=True)
class Capacity:
    """What was found."""

    goal: Goal
    streams: int
    """The most that met the goal; 0 where the fewest tried did not."""
    reports: tuple[LoadReport, ...]
    """In the order of the probes."""
    remark: str = ""
    """Why the search ended early, if it did."""

    def table(self) -> str:
        """Return the probes by streams, as Markdown."""
        lines = [
            "| streams | failed | finals | first partial p50 / p95 / p99 | end of speech to final"
            " | finalise to final | goal |",
            "|--:|--:|--:|--:|--:|--:|:-:|",
        ]
        for report in sorted(self.reports, key=lambda each: each.streams):
            cells = " | ".join(
                f"{each.p50:.0f} / {each.p95:.0f} / {each.p99:.0f}"
                for each in (report.first_partial, report.final, report.finalise)
            )
            met = "met" if self.goal.is_met(report) else "missed"
            lines.append(
                f"| {report.streams} | {report.failed} | {report.finals} | {cells} | {met} |"
            )
        goal = f"p95 of {self.goal.measure.value} at most {self.goal.limit_ms:.0f} ms"
        lines.append(f"\n{self.streams} streams with {goal}")
        if self.remark:
            lines.append(self.remark)
        return "\n".join(lines)


def find_capacity(
    plan: LoadPlan,
    goal: Goal,
    processes: int = 1,
    tell: Callable[[LoadReport], None] = lambda _: None,
    run: Callable[[LoadPlan, int], LoadReport] = run_load,
) -> Capacity:
    """Find the most streams that meet a goal.

    Args:
        plan: what each stream does; its number of streams is replaced.
        goal: what is to hold.
        processes: of the load generator.
        tell: is given each probe's report.
        run: runs a plan.
    """
    reports: list[LoadReport] = []
    best, missed = 0, goal.most + 1
    streams = min(goal.first, goal.most)
    remark = ""
    while best < streams < missed:
        report = run(replace(plan, streams=streams), processes)
        reports.append(report)
        tell(report)
        if goal.is_met(report):
            best = streams
        elif remark := _explain(report, goal):
            break
        else:
            missed = streams
        if missed > goal.most:
            streams = min(2 * best, goal.most)
        elif missed - best > max(1, int(best * goal.gap)):
            streams = (best + missed) // 2
    return Capacity(goal, best, tuple(reports), remark)


def _explain(report: LoadReport, goal: Goal) -> str:
    """Return why a missed goal says nothing of the server's capacity; empty where it does."""
    if report.late_ms > _LATE_MS:
        return (
            f"the load generator was {report.late_ms:.0f} ms late itself: give it more processes; "
            "the server may bear more"
        )
    pause = report.final.p50 - report.finalise.p50
    if goal.measure is Measure.FINAL and report.finalise.count and pause >= goal.limit_ms:
        return (
            f"the pause that proves an end takes {pause:.0f} ms alone: give a shorter "
            "--silence-ms, or measure finalise"
        )
    return ""


@contextlib.contextmanager
def running_server(url: str, options: Sequence[str], is_random: bool = False) -> Iterator[str]:
    """Give the WebSocket URL of a server: of ``url``, or of one that runs for the block's length.

    Args:
        url: of a server that runs already; empty starts one.
        options: of ``stream-server serve``, for one that is started.
        is_random: start one with random weights at full size.

    Raises:
        ConfigError: both are given.
        DiffscribeError: the server did not get ready.
    """
    if url:
        if options:
            raise ConfigError("url", url, f"without the options of a server ({' '.join(options)})")
        yield url
        return
    program = ["-c", "from stream_server.cli import main; main()", "serve"]
    if is_random:
        program = ["-m", "stream_server.evaluation.random_server"]
    # It is to be found out how many it bears: the server's own opinion would be in the way.
    command = [sys.executable, *program, "--port", "0", "--busy-share", "0", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield _wait_until_ready(server)
    finally:
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if server.stdout is not None:
            server.stdout.close()


def _wait_until_ready(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if found := _READY.search(line):
            return f"ws{found[1]}/v1/stream"
    raise DiffscribeError(f"the server ended with status {server.wait()} before it was ready")


__all__ = ["Capacity", "Goal", "Measure", "find_capacity", "running_server"]
