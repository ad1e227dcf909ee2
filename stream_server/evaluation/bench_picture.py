"""The benches as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from stream_server.errors import ConfigError
from stream_server.evaluation.capacity import Capacity
from stream_server.evaluation.decode_bench import Result


def draw_decode(machine: str, results: Sequence[Result], file: Path) -> None:
    """Draw milliseconds a segment, ours, stock and the floor, for each shape.

    Raises:
        ConfigError: the file cannot be written.
    """
    figure = Figure(figsize=(1.6 * len(results) + 3, 4.5), layout="constrained")
    axes = figure.subplots()
    series = (
        ("stock transformers", [each.stock_per_segment for each in results]),
        ("diffscribe", [each.per_segment for each in results]),
        ("floor", [each.floor_per_segment for each in results]),
    )
    for place, (name, values) in enumerate(series):
        at = [index + (place - 1) * 0.28 for index in range(len(results))]
        bars = axes.bar(at, [value or 0.0 for value in values], width=0.26, label=name)
        texts = ["" if value is None else f"{value:.1f}" for value in values]
        axes.bar_label(bars, texts, fontsize=8)
    axes.set_yscale("log")
    axes.set_ylabel(f"ms a segment, {results[0].steps} steps and prompt")
    axes.set_xticks(range(len(results)), [each.shape.name for each in results])
    axes.set_xlabel("rows x canvas")
    axes.set_title(f"Decoding on {machine}")
    axes.legend()
    _save(figure, file)


def draw_capacity(found: Capacity, file: Path) -> None:
    """Draw the three latencies against streams.

    Raises:
        ConfigError: the file cannot be written.
    """
    reports = sorted(found.reports, key=lambda each: each.streams)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    streams = [report.streams for report in reports]
    for name, label in (
        ("first_partial", "start of speech to first partial"),
        ("final", "end of speech to final"),
        ("finalise", "end announced to final"),
    ):
        latencies = [getattr(report, name) for report in reports]
        (line,) = axes.plot(streams, [each.p95 for each in latencies], "o-", label=f"{label}, p95")
        axes.plot(streams, [each.p50 for each in latencies], ":", color=line.get_color())
    axes.axhline(found.goal.limit_ms, color="grey", linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("streams (dotted: p50; line: the goal)")
    axes.set_ylabel("ms")
    axes.set_xticks(streams)
    axes.set_title(f"Streams that meet the goal: {found.streams}")
    axes.legend()
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError("out", str(file), f"a picture that can be written: {error}") from error


__all__ = ["draw_capacity", "draw_decode"]
