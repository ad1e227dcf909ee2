"""The picture of a run has a curve for each loss that was logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from stream_server.training.curves import compare_curves, draw_curves


def test_curves_are_drawn_once_for_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    plot = Axes.plot

    def spy(axes: Any, x: Any, y: Any, label: str) -> Any:
        drawn[label] = (x, y)
        return plot(axes, x, y, label=label)

    monkeypatch.setattr(Axes, "plot", spy)
    lines = [
        {"step": 10, "ctc": 12.0, "diffusion": 9.0},
        {"step": 20, "ctc": 8.0, "diffusion": 9.0},
        # Resumed from step 10.
        {"step": 20, "ctc": 7.0, "diffusion": 8.5},
        {"step": 30, "ctc": 6.0},
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(log, tmp_path / "curves.png")
    assert drawn == {
        "ctc": ((10, 20, 30), (12.0, 7.0, 6.0)),
        "diffusion": ((10, 20), (9.0, 8.5)),
    }
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_drawn_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, Any, Any]] = []
    plot = Axes.plot

    def spy(axes: Any, x: Any, y: Any, label: str) -> Any:
        drawn.append((label, x, y))
        return plot(axes, x, y, label=label)

    monkeypatch.setattr(Axes, "plot", spy)
    logs = {}
    for name, losses in (("one", (3.0, 2.0)), ("two", (3.0, 2.9))):
        logs[name] = tmp_path / f"{name}.jsonl"
        lines = [{"step": 10 * place, "ctc": loss} for place, loss in enumerate(losses, 1)]
        logs[name].write_text("".join(json.dumps(line) + "\n" for line in lines))
    compare_curves(logs, ["ctc"], tmp_path / "both.png")
    assert drawn == [("one", (10, 20), (3.0, 2.0)), ("two", (10, 20), (3.0, 2.9))]
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
