"""Lint and render the chart with Helm's library: run in the environment of linters.txt.

Reads a JSON list of values from standard input; writes a JSON list, for each `{"lint": [...],
"objects": [...], "error": "..."}`. Each object is checked against Kubernetes' schema.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import kubernetes_validate
import yaml
from helm_python.chart import Chart, lint

KUBERNETES = "1.31"
CUSTOM = {"ServiceMonitor"}
"""Kinds that Kubernetes itself does not know."""


def render(path: str, values: dict[str, Any]) -> dict[str, Any]:
    report = lint(path, values, strict=True)
    found = {"lint": [each for each in report["messages"] if each["severity"] > 1], "objects": []}
    try:
        with Chart.load(path) as chart:
            chart.validate_schema(values)
            rendered = chart.render(values, name="live", namespace="talk")
        for name, text in sorted(rendered.items()):
            if name.endswith(".yaml"):
                found["objects"] += [each for each in yaml.safe_load_all(text) if each]
        for each in found["objects"]:
            if each["kind"] not in CUSTOM:
                kubernetes_validate.validate(each, KUBERNETES, strict=True)
    except Exception as error:  # whatever it is, the test wants to see it
        found["error"] = f"{type(error).__name__}: {error}"
    return found


print(json.dumps([render(sys.argv[1], values) for values in json.load(sys.stdin)]))
