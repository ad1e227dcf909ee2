"""The dashboard asks for metrics that are exported, with labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from stream_server.metrics import Metrics, render_markdown

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "diffscribe.json"


def exported() -> dict[str, set[str]]:
    """Return every series with its labels."""
    metrics = Metrics()
    metrics.record_build(version="1", model="fake")
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def queries(dashboard: dict[str, Any]) -> list[str]:
    """Return everything that is asked of Prometheus."""
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [
        each["query"]["query"]
        for each in dashboard["templating"]["list"]
        if each["type"] == "query"
    ]
    return panels + variables


def wrong(query: str, series: dict[str, set[str]]) -> list[str]:
    """Return the names and labels in a query that are not exported."""
    names = re.findall(r"\bdiffscribe_\w+", query)
    labels = {"instance", *(label for name in names for label in series.get(name, ()))}
    grouped = [
        label.strip() for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(",")
    ]
    return [
        *(name for name in names if name not in series),
        *(label for label in grouped if label not in labels),
    ]


def test_everything_that_is_asked_for_is_exported() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = queries(dashboard)
    assert len(found) > 20
    assert [each for query in found for each in wrong(query, exported())] == []


def test_every_metric_has_its_place_on_the_dashboard() -> None:
    asked = "\n".join(queries(json.loads(DASHBOARD.read_text(encoding="utf-8"))))
    names = re.findall(r"^\| `(\w+)` ", render_markdown(), re.MULTILINE)
    assert [name for name in names if name not in asked] == []


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    cells = [
        (place["x"] + dx, place["y"] + dy)
        for place in (panel["gridPos"] for panel in panels)
        for dx in range(place["w"])
        for dy in range(place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_what_is_not_exported_is_found() -> None:
    series = exported()
    assert wrong("sum by (le) (rate(diffscribe_queue_seconds_bucket[5m]))", series) == []
    assert wrong("diffscribe_queue_seconds", series) == ["diffscribe_queue_seconds"]
    assert wrong("sum by (colour) (diffscribe_sessions)", series) == ["colour"]
