"""The script that says where the time of ``start`` goes works, and rows share their launches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("start_cost.py")


def test_a_row_more_costs_few_launches(tmp_path: Path) -> None:
    output = tmp_path / "start.json"
    command = [sys.executable, str(SCRIPT), "--tiny", "--device", "cpu", "--json", str(output)]
    command += ["--rows", "1,3", "--seconds", "2", "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    one, three = json.loads(output.read_text())["costs"]
    assert min(one["start"], one["features"], one["head"], one["draft"]) > 0
    assert three["calls"] - one["calls"] < 2 * 20
