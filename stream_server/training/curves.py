"""The losses of a run as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

LOSSES = ("ctc", "autoregressive", "diffusion", "middle_ctc", "consistency")


def draw_curves(log: Path, picture: Path) -> None:
    """Draw the losses that a run logged.

    Args:
        log: JSON lines, each with ``step`` and some of :data:`LOSSES`; a run that was resumed may
            have a step twice, of which the later one counts.
        picture: PNG to write.
    """
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    points = {line["step"]: line for line in lines}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in LOSSES:
        known = sorted((step, line[name]) for step, line in points.items() if name in line)
        if known:
            axes.plot(*zip(*known, strict=True), label=name)
    axes.set_xlabel("updates")
    axes.set_ylabel("loss, nats a token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)


def compare_curves(logs: Mapping[str, Path], values: Sequence[str], picture: Path) -> None:
    """Draw the same values of several runs side by side, a panel for each value.

    Args:
        logs: JSON lines of each run, by its name.
        values: names of what the runs logged.
        picture: PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(values), 3.6), layout="constrained")
    for place, value in enumerate(values, 1):
        axes = figure.add_subplot(1, len(values), place)
        for name, log in logs.items():
            lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            known = sorted({line["step"]: line[value] for line in lines if value in line}.items())
            axes.plot(*zip(*known, strict=True), label=name)
        axes.set_xlabel("updates")
        axes.set_title(value)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(picture, dpi=110)


__all__ = ["LOSSES", "compare_curves", "draw_curves"]
