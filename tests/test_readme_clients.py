"""Each row of the README's table of clients has tests, and they do what the row says."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

TESTS = Path(__file__).parent
README = TESTS.parent / "README.md"
CLIENTS = "integration/clients/"

ROWS: Mapping[str, Sequence[str]] = {
    "curl, a file": (f"{CLIENTS}test_curl.py::test_the_words_of_people_in_a_file",),
    "OpenAI": (
        f"{CLIENTS}test_openai.py::test_the_words_of_people_in_files",
        f"{CLIENTS}test_openai.py::test_the_words_of_people_in_realtime",
        f"{CLIENTS}test_openai.py::test_the_words_of_people_from_javascript",
    ),
    "`OpenAIRealtimeWS` of JavaScript": (
        f"{CLIENTS}test_openai.py::test_the_words_of_people_in_realtime_from_javascript",
    ),
    "Deepgram": (
        f"{CLIENTS}test_deepgram.py::test_the_words_of_people_live",
        f"{CLIENTS}test_deepgram.py::test_the_words_of_people_in_turns",
        f"{CLIENTS}test_deepgram.py::test_the_words_of_people_in_files",
        f"{CLIENTS}test_deepgram.py::test_the_words_of_people_from_javascript",
    ),
    "AssemblyAI": (f"{CLIENTS}test_assemblyai.py::test_the_words_of_people",),
    "Speechmatics": (f"{CLIENTS}test_speechmatics.py::test_the_words_of_people",),
    "Pipecat": (
        f"{CLIENTS}test_openai.py::test_pipecat",
        f"{CLIENTS}test_deepgram.py::test_pipecat",
    ),
    "LiveKit Agents": (
        f"{CLIENTS}test_openai.py::test_livekit",
        f"{CLIENTS}test_deepgram.py::test_livekit",
    ),
    "Vosk": (f"{CLIENTS}test_vosk.py::test_the_words_of_people",),
    "a room of LiveKit Agents or Pipecat": (
        f"{CLIENTS}test_rooms.py::test_livekit",
        f"{CLIENTS}test_rooms.py::test_pipecat",
    ),
    "Vexa's meeting bot": ("integration/test_rest_bots.py::test_vexa",),
    "Attendee, with OpenAI as the provider": ("integration/test_rest_bots.py::test_attendee",),
    "Jitsi, by Jigasi": ("integration/test_jigasi.py::test_three_people_get_their_own_captions",),
    "Wyoming clients, as Home Assistant": (f"{CLIENTS}test_wyoming.py::test_the_words_of_people",),
    "GStreamer and other WHIP publishers": (
        "integration/test_whip_people.py::test_gstreamer",
        "integration/test_whip_people.py::test_viewers_of_what_aiortc_sends_by_whip",
        "browser/test_people.py::test_whip",
    ),
    "a web page": ("browser/test_people.py::test_the_library_elsewhere",),
    "a page or program with WebRTC of its own": (
        "browser/test_people.py::test_whip",
        "integration/test_whip_people.py::test_aiortc_by_an_exchange_of_json",
    ),
    "a viewer": ("integration/test_whip_people.py::test_viewers_of_what_aiortc_sends_by_whip",),
}
"""First cells of the rows, and the tests that run their clients."""
SCRIPT = re.compile(r"[\w./]+\.(?:py|mjs|html)\b")
HELPERS = re.compile(r"^from (tests[\w.]*) import", re.MULTILINE)
CLAIMS = (
    r"(?:(?<=HOST)|(?<=stage)|^)/[a-z0-9/_.]+",  # a path
    r"[A-Za-z_][\w.]*(?=[=(])",  # a function, or what it is given
    r"\b[a-zA-Z]+(?=:\s)",  # the same in JavaScript
    r"\b[A-Z]+_[A-Z_]+\b",  # a variable of the environment
    r"^[a-z_]+$",  # a name alone
    r"(?<=--)[a-z-]+",  # an option
    r"(?<=import \{ )\w+",
)
"""What people are told to write, in code of a row."""


def rows(page: str) -> dict[str, str]:
    """Return first and second cells of the table of clients."""
    table = page[page.index("| your client | what to change |") :].split("\n\n")[0]
    cells = [line.strip("| ").split(" | ", 1) for line in table.splitlines()[2:]]
    return dict(cells)


def functions(path: Path) -> set[str]:
    """Return the tests in a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def everything_run(path: Path) -> str:
    """Return the text of a test file, of the scripts that it names and of its helpers."""
    text = path.read_text(encoding="utf-8")
    named = {path.parent / name for name in SCRIPT.findall(text)}
    named |= {TESTS.parent / f"{name.replace('.', '/')}.py" for name in HELPERS.findall(text)}
    named.add(path.parent / "conftest.py")
    texts = [each.read_text(encoding="utf-8") for each in sorted(named) if each.is_file()]
    return "\n".join([text, *texts])


def claims(cell: str) -> set[str]:
    """Return what a cell tells people to write."""
    code = re.findall(r"`([^`]+)`", cell)
    found = [each for pattern in CLAIMS for text in code for each in re.findall(pattern, text)]
    return {each.replace("-", "_") if "/" not in each else each for each in found}


def test_each_row_has_its_tests() -> None:
    assert list(rows(README.read_text(encoding="utf-8"))) == list(ROWS)
    for tests in ROWS.values():
        for test in tests:
            file, _, name = test.partition("::")
            assert name in functions(TESTS / file), test


def test_the_tests_do_what_the_row_says() -> None:
    for first, second in rows(README.read_text(encoding="utf-8")).items():
        files = {test.partition("::")[0] for test in ROWS[first]}
        run = "\n".join(everything_run(TESTS / file) for file in sorted(files))
        missing = {claim for claim in claims(second) if claim not in run}
        assert not missing, f"{first}: {missing}"


def test_claims_are_read() -> None:
    page = '| your client | what to change |\n|---|---|\n| x | `X(base_url="ws://HOST/v9")` |\n\n'
    assert rows(page) == {"x": '`X(base_url="ws://HOST/v9")`'}
    assert claims(rows(page)["x"]) == {"X", "base_url", "/v9"}
    assert claims("`new Y({ baseUrl: 1 })` or `Y_URL`, `rest`") == {"Y", "baseUrl", "Y_URL", "rest"}
    assert claims("`--a-port 1`, `GET /v1/stage/events`, `/b.vtt`") == {
        "a_port",
        "/events",
        "/b.vtt",
    }
    assert claims('`import { go } from "http://HOST/go.js"`') == {"go", "/go.js"}
