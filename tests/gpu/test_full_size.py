"""The script that measures the published model at full size works, and what it checks holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_size.py")


def run(output: Path, *arguments: str) -> dict[str, dict[str, bool]]:
    command = [sys.executable, str(SCRIPT), "--json", str(output), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, dict[str, bool]] = json.loads(output.read_text())
    return report


def test_the_same_path_at_a_toy_size(tmp_path: Path) -> None:
    report = run(tmp_path / "report.json", "--tiny", "--device", "cpu", "--rows", "1,2")
    assert all(report["holds"].values())
    assert len(report["batches"]) == 4


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_full_size_on_one_gpu(tmp_path: Path) -> None:
    report = run(tmp_path / "report.json")
    assert all(report["holds"].values())
