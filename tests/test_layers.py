"""Imports go down, the pure parts stay pure, and nothing grows beyond what a reader can hold.

The tables here are the architecture (see stream_server/README.md); change them on purpose only.
Imports inside functions count as much as those at the top of a file.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    # The server, top first: a module imports from lower lines, and from its own part.
    "stream_server.cli",
    "stream_server.config_text",
    "stream_server.evaluation",
    # Evaluation asks training which clips a recipe kept from it.
    "stream_server.training",
    "stream_server.offline",
    "stream_server.server",
    "stream_server.transports",
    "stream_server.session.driver",
    "stream_server.session.batcher",
    "stream_server.session.intake stream_server.session.inbox stream_server.session.outbox",
    "stream_server.scheduler.engine stream_server.recogniser stream_server.segmenter.vad",
    "stream_server.scheduler.rows",
    "stream_server.session",
    "stream_server.scheduler",
    "stream_server.segmenter stream_server.transcript",
    "stream_server.key_commands",
    "stream_server.recogniser.interface stream_server.tls stream_server.keyring"
    " stream_server.connections",
    "stream_server.audio stream_server.metrics stream_server.config stream_server.tracing",
    "stream_server.pcm stream_server.container",
    "stream_server.ranges",
    "stream_server.logs stream_server.progress stream_server.errors stream_server.version",
    # The client.
    "stream_client.cli",
    "stream_client.meeting_play stream_client.webrtc_bot",
    "stream_client.caption_file stream_client.caption_push",
    "stream_client.captions stream_client.load stream_client.meeting",
    "stream_client.outlets",
    "stream_client.client",
    "stream_client.caption_forms stream_client.minutes stream_client.mixdown",
    "stream_client.inbox stream_client.resume stream_client.sources stream_client.timeline"
    " stream_client.whole_file",
    "stream_client.errors",
    # What both speak.
    "stream_protocol.asyncapi",
    "stream_protocol.codec stream_protocol.connection stream_protocol.subtitles",
    "stream_protocol.errors",
    "stream_protocol.messages",
)

ONLY = {
    # Narrower than the layers: all that these parts may import of ours.
    "stream_client": "stream_client stream_protocol",
    "stream_protocol": "stream_protocol",
    "stream_server.recogniser": "stream_server.recogniser stream_server.config"
    " stream_server.errors",
    "stream_server.recogniser.interface": "",
    "stream_server.transcript": "stream_server.transcript stream_server.recogniser.interface",
    "stream_server.segmenter": "stream_server.segmenter stream_server.recogniser.interface"
    " stream_protocol.messages",
    "stream_server.session.inbox": "stream_protocol",
    "stream_server.session.outbox": "stream_protocol",
}

ONLY_BY = {
    # Parts, ours and others', and who alone may import them.
    "stream_server.training": "stream_server.training stream_server.evaluation",
    "stream_server.evaluation": "stream_server.evaluation",
    "stream_server.recogniser": "stream_server.recogniser stream_server.server"
    " stream_server.training stream_server.evaluation",
    "stream_server.logs": "stream_server.cli",
    "stream_server.progress": "stream_server.cli stream_server.training stream_server.evaluation",
    "torch": "stream_server.recogniser stream_server.training stream_server.evaluation",
    "transformers": "stream_server.recogniser stream_server.training stream_server.evaluation",
    "pocketsphinx": "stream_server.evaluation.sphinx stream_server.training.trigrams",
    "webrtcvad": "stream_server.segmenter.vad",
    "uvicorn": "stream_server.server stream_server.connections",
    "starlette": "stream_server.transports",
    "sounddevice": "stream_client.sources",
    "aiortc": "stream_server.transports.webrtc stream_client.webrtc_bot",
    "opentelemetry": "stream_server.tracing",
}

FOR_ALL = "stream_server.recogniser.interface"
"""Within a part that others may not import, what they may."""

PURE = (
    "stream_protocol",
    "stream_client.minutes",
    "stream_client.mixdown",
    "stream_client.resume",
    "stream_client.timeline",
    "stream_server.recogniser.alignment",
    "stream_server.recogniser.beam",
    "stream_server.recogniser.draft",
    "stream_server.recogniser.interface",
    "stream_server.recogniser.ngram",
    "stream_server.recogniser.phones",
    "stream_server.recogniser.support",
    "stream_server.scheduler.demand",
    "stream_server.scheduler.request",
    "stream_server.scheduler.sharing",
    "stream_server.scheduler.costs",
    "stream_server.scheduler.scheduler",
    "stream_server.segmenter.buffer",
    "stream_server.segmenter.segmenter",
    "stream_server.session.effects",
    "stream_server.session.allowance",
    "stream_server.session.lead",
    "stream_server.session.reports",
    "stream_server.session.session",
    "stream_server.session.validation",
    "stream_server.transcript",
)
"""Here the same input gives the same output: no event loop, thread, clock, chance, log or model."""
PURE_MAY_USE = (*PURE, "stream_server.errors", "stream_server.config", "stream_client.errors")
IMPURE = (
    "asyncio concurrent datetime logging multiprocessing os random select socket structlog"
    " subprocess threading time torch transformers"
)

ENVIRONMENT_READER = "stream_server.config"
BODY, FILE, CONSTRUCTOR = 80, 600, 8
"""Most lines of a function's body and of a file; most parameters of a constructor."""


def _is_in(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def _is_in_any(module: str, parts: str) -> bool:
    return any(_is_in(module, part) for part in parts.split())


def _place(module: str) -> tuple[int, str] | None:
    """Return the layer of a module and its part there: the most specific one that names it."""
    found = [
        (len(part), rank, part)
        for rank, parts in enumerate(LAYERS)
        for part in parts.split()
        if _is_in(module, part)
    ]
    return max(found)[1:] if found else None


def _imports(source: Any) -> Iterator[str]:
    """Yield every module that is imported, anywhere in the file; names of modules too."""
    for node in ast.walk(source.tree):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                # ``from package import module`` imports both.
                whole = [f"{module}.{each.name}" for each in names]
                inner = [name for name in whole if name in _SUBMODULES]
                yield from inner or [module]
            case ast.ImportFrom():
                yield "."


_SUBMODULES = frozenset(
    ".".join(path.relative_to(base).with_suffix("").parts)
    for base in (ROOT, ROOT / "client", ROOT / "protocol")
    for path in base.glob("stream_*/**/*.py")
)
"""What ``from package import name`` imports as a module."""


def check_imports(source: Any) -> list[str]:
    """Return the imports of a module that its place does not allow."""
    module, problems = source.module, []
    place = _place(module)
    if place is None and not source.is_empty:
        problems.append("has no layer")
    for name in sorted(set(_imports(source))):
        if name == ".":
            problems.append("imports relatively")
        problems += [
            f"imports {name}, which only {users} may"
            for part, users in ONLY_BY.items()
            if _is_in(name, part) and name != FOR_ALL and not _is_in_any(module, users)
        ]
        if not name.startswith("stream_"):
            continue
        problems += [
            f"imports {name}, but {part} knows only: {allowed or 'nothing of ours'}"
            for part, allowed in ONLY.items()
            if _is_in(module, part) and not _is_in_any(name, allowed)
        ]
        other = _place(name)
        if place is not None and (other is None or other < place or _is_beside(place, other)):
            problems.append(f"imports {name}, which is not below it")
    return [f"{module} {problem}" for problem in problems]


def _is_beside(place: tuple[int, str], other: tuple[int, str]) -> bool:
    return place[0] == other[0] and place[1] != other[1]


def check_purity(source: Any) -> list[str]:
    """Return what a pure module imports that would make it impure."""
    if not _is_in_any(source.module, " ".join(PURE)):
        return []
    return [
        f"{source.module} is pure and imports {name}"
        for name in sorted(set(_imports(source)))
        if _is_in_any(name, IMPURE)
        or (name.startswith("stream_") and not _is_in_any(name, " ".join(PURE_MAY_USE)))
    ]


def check_environment(source: Any) -> list[str]:
    """Return where a module reads the environment, if it is not the one that may."""
    if source.module == ENVIRONMENT_READER:
        return []
    names = {"environ", "environb", "getenv"}
    return [
        f"{source.module}:{node.lineno} reads the environment"
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and names & {each.name for each in node.names})
    ]


def check_sizes(source: Any) -> list[str]:
    """Return what is too long: the file, a body, the parameters of a constructor."""
    problems = []
    lines = len(source.text.splitlines())
    if lines > FILE:
        problems.append(f"has {lines} lines; {FILE} at most")
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or 0) - _body(node)[0].lineno + 1
        if length > BODY:
            problems.append(f"{node.name} has {length} lines; {BODY} at most")
        own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if node.name == "__init__" and len(own) - 1 > CONSTRUCTOR:
            problems.append(f"{node.name} has {len(own) - 1} parameters; {CONSTRUCTOR} at most")
    return [f"{source.module} {problem}" for problem in problems]


def _body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    """Return the statements of a function without its docstring."""
    first = node.body[0]
    is_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return node.body[1:] if is_doc and len(node.body) > 1 else node.body


CHECKS = (check_imports, check_purity, check_environment, check_sizes)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_source_keeps_its_shape(check: Any, sources: tuple[Any, ...]) -> None:
    assert [problem for source in sources for problem in check(source)] == []


def test_every_part_that_is_named_here_is_there(sources: tuple[Any, ...]) -> None:
    modules = {source.module for source in sources}
    named = {*" ".join(LAYERS).split(), *PURE, *ONLY, FOR_ALL, ENVIRONMENT_READER}
    assert named - modules == set()


def test_commands_elsewhere_are_training_and_evaluation() -> None:
    from stream_server.cli import LAZY_COMMANDS

    homes = "stream_server.training stream_server.evaluation"
    assert [each for each in LAZY_COMMANDS.values() if not _is_in_any(each.module, homes)] == []


@pytest.mark.parametrize(
    ("module", "text", "said"),
    [
        # Upward, sideways, and round the corner of a function or an alias.
        ("stream_server.transports.http", "import stream_server.server", "not below"),
        ("stream_server.scheduler.engine", "import stream_server.segmenter.vad", "not below"),
        ("stream_server.session.session", "import stream_server.session.driver", "not below"),
        ("stream_server.config", "def f():\n    import stream_server.audio", "not below"),
        ("stream_server.session.driver", "from stream_server.cli import app as a", "not below"),
        ("stream_client.client", "from stream_client.cli import app", "not below"),
        ("stream_protocol.messages", "from stream_protocol import codec", "not below"),
        ("stream_client.load", "from stream_server.config import load", "knows only"),
        ("stream_protocol.codec", "import stream_server.errors", "knows only"),
        ("stream_server.recogniser.decoder", "import stream_protocol.messages", "knows only"),
        ("stream_server.recogniser.interface", "import stream_server.errors", "nothing of ours"),
        ("stream_server.server", "import stream_server.training.cli", "which only"),
        ("stream_server.cli", "import stream_server.evaluation.cli", "which only"),
        ("stream_server.session.driver", "import stream_server.recogniser.model", "which only"),
        ("stream_server.segmenter.vad", "import torch.nn", "which only"),
        ("stream_server.audio", "import webrtcvad", "which only"),
        ("stream_server.audio", "from . import pcm", "relatively"),
        ("stream_server.surprise", "x = 1", "has no layer"),
        # Impure.
        ("stream_server.session.session", "import asyncio", "is pure"),
        ("stream_server.scheduler.scheduler", "from time import monotonic", "is pure"),
        ("stream_server.segmenter.segmenter", "import random", "is pure"),
        ("stream_server.transcript.text", "import torch.nn", "is pure"),
        ("stream_server.session.reports", "import stream_server.metrics", "is pure"),
        ("stream_protocol.codec", "import socket", "is pure"),
        # The environment.
        ("stream_server.server", "import os\nos.environ['A']", "reads the environment"),
        ("stream_server.server", "from os import getenv", "reads the environment"),
        # Too long.
        ("stream_server.server", "x = 1\n" * 601, "601 lines"),
        ("stream_server.server", "def f():\n" + "    x = 1\n" * 81, "81 lines"),
        ("stream_server.server", "class A:\n def __init__(s,a,b,c,d,e,f,g,*,h,i): 1", "9 param"),
    ],
)
def test_what_breaks_the_shape_is_found(
    parse: Callable[..., Any], module: str, text: str, said: str
) -> None:
    problems = [problem for check in CHECKS for problem in check(parse(module, text))]
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("stream_server.server", "import stream_server.recogniser.checkpoint, asyncio, uvicorn"),
        ("stream_server.transports.http", "from stream_server.session.driver import Services"),
        ("stream_server.transports.http", "import stream_server.transports.auth, starlette"),
        ("stream_server.session.session", "import stream_server.scheduler.request"),
        ("stream_server.training.loop", "import torch, stream_server.recogniser.model"),
        ("stream_server.config", "import os\nos.environ"),
        (
            "stream_server.server",
            "def f():\n    '''One.\n\n    Two.'''\n" + "    x = 1\n" * 80,
        ),
        ("stream_server.server", "class A:\n def __init__(s,a,b,c,d,e,f,g,*,h): 1"),
        ("stream_server.transports", ""),
    ],
)
def test_what_keeps_the_shape_passes(parse: Callable[..., Any], module: str, text: str) -> None:
    assert [problem for check in CHECKS for problem in check(parse(module, text))] == []
