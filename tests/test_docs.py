"""What the pages say is so: options, links, commands, and where to find what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from stream_server import metrics
from stream_server.config_text import render_markdown

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "client/README.md",
    "docker/README.md",
    "protocol/README.md",
    "stream_server/README.md",
    "stream_server/SECURITY.md",
    "stream_server/evaluation/README.md",
    "stream_server/transports/README.md",
    "tests/data/README.md",
    "tests/long/README.md",
)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def dead_links(text: str, folder: Path) -> list[str]:
    """Return the links of a page to files that are not there."""
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    return [link for link in links if ":" not in link and not (folder / link).exists()]


def unknown_targets(text: str, makefile: str) -> list[str]:
    """Return the targets that a page tells people to make and that the Makefile lacks."""
    named = re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)
    return [name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)]


def wrong_rows(text: str, modules: Iterable[str]) -> list[str]:
    """Return what is wrong with "to change X open Y, its test is Z" in the server's page."""
    text = text[text.index("## To change something") :]
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+`) \| (?:`([^|]+)`)? ?\|$", text, re.MULTILINE)
    opened = {path for cell, _ in rows for path in re.findall(r"`([^`]+)`", cell)}
    server, tests = ROOT / "stream_server", ROOT / "tests" / "server"
    return [
        *(f"{path} is not there" for path in opened if not (server / path).exists()),
        *(f"{test} is not there" for _, test in rows if test and not (tests / test).exists()),
        *(
            f"{module} has no row"
            for module in modules
            if module not in opened and f"{module.split('/')[0]}/" not in opened
        ),
    ]


def missing_tests(text: str) -> list[str]:
    """Return the tests that a page names, as ``file::test``, and that are not there."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    return [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).exists()
        or not re.search(rf"^(?:async )?def {test}\(", read(file), re.MULTILINE)
    ]


def rows_without_a_test(text: str) -> list[str]:
    """Return the rows of tables of promises (the last column is "its test") that name none."""
    found = []
    for table in re.findall(r"^\|[^\n]*its test \|\n\|[-|]+\|\n((?:\|[^\n]*\n)+)", text, re.M):
        rows = table.splitlines()
        found += [
            row for row in rows if "::" not in row.rpartition(" | ")[2] and "the same" not in row
        ]
    return found


def test_each_promise_of_security_has_its_test() -> None:
    page = read("stream_server/SECURITY.md")
    assert missing_tests(page) == []
    assert rows_without_a_test(page) == []
    assert len(re.findall(r"::test_\w+`", page)) >= 40


def test_the_table_of_options_is_current() -> None:
    rows = render_markdown()
    assert rows in read("README.md"), f"put this into README.md:\n\n{rows}"


def test_the_table_of_metrics_is_current() -> None:
    rows = metrics.render_markdown()
    assert rows in read("stream_server/README.md"), f"put this into it:\n\n{rows}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert dead_links(read(page), (ROOT / page).parent) == []


@pytest.mark.parametrize("page", PAGES)
def test_targets_can_be_made(page: str) -> None:
    assert unknown_targets(read(page), read("Makefile")) == []


def test_every_part_of_the_server_is_easy_to_find(sources: tuple[Any, ...]) -> None:
    modules = [
        source.module.removeprefix("stream_server.").replace(".", "/") + ".py"
        for source in sources
        if source.module.startswith("stream_server.") and not source.is_empty
    ]
    assert wrong_rows(read("stream_server/README.md"), modules) == []


def test_what_is_wrong_is_found() -> None:
    assert dead_links("[a](README.md#map) [b](https://x.org/y) [c](no.md)", ROOT) == ["no.md"]
    assert unknown_targets("`make tea` and\nmake demo", read("Makefile")) == ["tea"]
    named = "`tests/test_docs.py::test_what_is_wrong_is_found` `tests/test_docs.py::test_no`"
    assert missing_tests(f"{named} `tests/no.py::test_x`") == [
        "tests/test_docs.py::test_no",
        "tests/no.py::test_x",
    ]
    table = "| a | its test |\n|---|---|\n| b | `x.py::test_y` |\n| c | none |\n"
    assert rows_without_a_test(table) == ["| c | none |"]
    rows = ["| a | `config.py` | `test_config.py` |", "| b | `gone.py` | `test_gone.py` |"]
    page = ["## To change something", "", *rows, ""]
    assert wrong_rows("\n".join(page), ["config.py", "audio.py"]) == [
        "gone.py is not there",
        "test_gone.py is not there",
        "audio.py has no row",
    ]
