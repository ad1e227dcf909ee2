"""The step sweep as a picture: error rate with its interval, and speed, against steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from stream_server.errors import ConfigError
from stream_server.evaluation.report import Result

_SIZE = (7.0, 6.0)
"""Inches."""


def plot_steps(model: str, results: Sequence[Result], file: Path) -> None:
    """Draw a line for each set; the format follows from the file's ending.

    Raises:
        ConfigError: no result has steps and an error rate, or the file cannot be written.
    """
    drawn = [each for each in results if each.steps is not None and each.wer is not None]
    if not drawn:
        raise ConfigError("plot", str(file), "drawn where there are steps and transcribed clips")
    figure = Figure(figsize=_SIZE, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for key in sorted({(each.set, each.language or "") for each in drawn}):
        line = [each for each in drawn if (each.set, each.language or "") == key]
        _draw(upper, lower, " ".join(part for part in key if part), line)
    _finish(upper, lower, model, drawn)
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError("plot", str(file), f"a picture that can be written: {error}") from error


def _draw(upper: Any, lower: Any, name: str, results: Sequence[Result]) -> None:
    line = sorted(results, key=lambda each: each.steps or 0)
    steps = [each.steps for each in line]
    values, lows, highs = zip(*(_headline(each) for each in line), strict=True)
    spread = [
        [value - low for value, low in zip(values, lows, strict=True)],
        [high - value for value, high in zip(values, highs, strict=True)],
    ]
    label = f"{name}, {line[0].metric.upper()}, {line[0].utterances} clips"
    upper.errorbar(steps, values, yerr=spread, marker="o", capsize=3, label=label)
    lower.plot(steps, [each.rtf for each in line], marker="o")


def _headline(result: Result) -> tuple[float, float, float]:
    """Return the error rate and its interval, per cent."""
    if result.metric == "cer":
        found = (result.cer, result.cer_low, result.cer_high)
    else:
        found = (result.wer, result.wer_low, result.wer_high)
    value, low, high = (100 * (each or 0.0) for each in found)
    return value, low, high


def _finish(upper: Any, lower: Any, model: str, drawn: Sequence[Result]) -> None:
    steps = sorted({each.steps or 0 for each in drawn})
    upper.set_title(f"{model}: error and speed by denoising steps")
    upper.set_ylabel("error rate, %, with 95 % interval")
    upper.set_ylim(bottom=0)
    upper.legend()
    lower.set_ylabel("real-time factor")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("denoising steps at most")
    lower.set_xscale("log", base=2)
    lower.xaxis.set_major_locator(FixedLocator(steps))
    lower.xaxis.set_major_formatter(ScalarFormatter())
    lower.xaxis.set_minor_locator(NullLocator())
    for axes in (upper, lower):
        axes.grid(alpha=0.3)


__all__ = ["plot_steps"]
