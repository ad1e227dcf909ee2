"""Schemathesis reads the server's own OpenAPI document, and finds every answer as it says there.

Some twenty requests for each endpoint and way of being wrong; ``--hypothesis-profile thorough``
makes them three times as many.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from hypothesis import settings

HERE = Path(__file__).parent
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"
CHECKS += ",response_schema_conformance"
EXAMPLES = max(20, settings().max_examples // 5)
SECONDS = 600


def test_the_server_answers_as_its_description_says(
    running: Any, environment: Callable[[Path], Path]
) -> None:
    place = environment(HERE / "schemathesis.txt")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ["SCHEMATHESIS_HOOKS"] = str(HERE / "schemathesis_hooks.py")
    with running() as server:
        done = subprocess.run(
            [
                str(place / "bin" / "schemathesis"), "run", f"{server.url}/openapi.json",
                "--max-examples", str(EXAMPLES), "--checks", CHECKS, "--no-color",
                "--continue-on-failure", "--request-timeout", "10",
                "--suppress-health-check", "all",
            ],
            cwd=place, env=environ, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        ready = httpx.get(f"{server.url}/readyz").json()
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    (generated,) = re.findall(r"(\d+) generated, \1 passed", done.stdout)
    assert int(generated) > 20 * EXAMPLES
    assert (ready["status"], ready["sessions"]) == ("ready", 0)
