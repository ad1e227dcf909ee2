"""Pictures of the benches: there, and refused where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_client.load import Latency, LoadReport
from stream_server.errors import ConfigError
from stream_server.evaluation.bench_picture import draw_capacity, draw_decode
from stream_server.evaluation.capacity import Capacity, Goal
from stream_server.evaluation.decode_bench import Result, Shape

PNG = b"\x89PNG"


def result() -> Result:
    return Result(Shape(4, 32, 40), 8, floor_total=5.0, total=50.0)


def capacity() -> Capacity:
    latency = Latency(3, 100.0, 200.0, 210.0, 220.0)
    reports = tuple(
        LoadReport(n, 0, 1.0, 1.0, 3, latency, latency, latency, 0.0, ()) for n in (8, 4)
    )
    return Capacity(Goal(), 8, reports)


def test_a_picture_of_decodes(tmp_path: Path) -> None:
    draw_decode("CPU", [result(), result()], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_a_picture_of_streams(tmp_path: Path) -> None:
    draw_capacity(capacity(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_a_place_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out=.*a picture that can be written"):
        draw_capacity(capacity(), tmp_path / "no" / "a.png")
