"""The bench commands: a grid on the embedded model, streams on a real server and on none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stream_server import cli
from stream_server.errors import ConfigError
from stream_server.evaluation import bench

runner = CliRunner()


@pytest.mark.model
def test_decode_writes_json_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "new" / "decode.json"
    arguments = ["decode", "--shapes", "1x16x20,2x16x20", "--steps", "2", "--out", str(out)]
    result = runner.invoke(bench.app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["machine"] == "CPU"
    assert document["agreement"]["argmax_same"] == 1
    assert document["agreement"]["scores"] < 1e-4
    assert [each["shape"]["rows"] for each in document["results"]] == [1, 2]
    assert out.with_suffix(".png").exists()
    assert "| 2 | 16 | 20 | 2 |" in result.output


@pytest.mark.model
def test_float8_says_what_it_does_to_the_scores_and_has_stock_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "decode.json"
    arguments = ["decode", "--shapes", "1x16x20", "--steps", "2", "--float8", "all"]
    result = runner.invoke(bench.app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text(encoding="utf-8"))
    assert 0 < document["agreement"]["scores"] < 1
    assert document["results"][0]["stock_total"] > 0
    assert document["results"][0]["total"] > 0


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--shapes", "wide"], "ROWSxCANVAS"),
        (["--float8", "some"], "'experts' or 'all'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: list[str], names: str) -> None:
    result = runner.invoke(bench.app, ["decode", *options])
    assert isinstance(result.exception, ConfigError)
    assert names in str(result.exception)


@pytest.mark.model
def test_an_unknown_kernel_is_refused() -> None:
    result = runner.invoke(bench.app, ["decode", "--shapes", "1x16x20", "--without", "magic"])
    assert isinstance(result.exception, ConfigError)
    assert "run_experts" in str(result.exception)


@pytest.mark.alone
def test_capacity_drives_a_server_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "capacity.json"
    arguments = ["capacity", "--first", "2", "--most", "2", "--seconds", "4", "--limit-ms", "900"]
    server = ["--model", "fake", "--log-level", "warning"]
    result = runner.invoke(bench.app, [*arguments, "--out", str(out), "--", *server])
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["capacity"] == 2
    assert document["server"] == server
    (probe,) = document["probes"]
    assert (probe["streams"], probe["failed"]) == (2, 0)
    assert probe["final"]["p50"] >= 150, "the pause that proves an end is in it"
    assert out.with_suffix(".png").exists()


def test_the_command_is_listed() -> None:
    assert "bench" in CliRunner().invoke(cli.app, ["--help"]).output


def test_a_rehearsal_says_how_many_a_machine_would_bear() -> None:
    arguments = ["rehearse", "--first", "2", "--most", "4", "--seconds", "6", "--start-ms", "1,1"]
    result = runner.invoke(bench.app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 streams: " in result.output
    assert "4 streams with p95 of final at most 300 ms" in result.output
    for options, name in (["--machine", "abacus"], "machine"), (["--start-ms", "fast"], "start_ms"):
        result = runner.invoke(bench.app, ["rehearse", *options])
        assert isinstance(result.exception, ConfigError)
        assert name in str(result.exception)
