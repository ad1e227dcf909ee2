"""Every module has a test file of the same name in the same place, and no test file is left over.

``stream_server/session/driver.py`` is tested by ``tests/server/session/test_driver.py``. Which
reader looks where is then no question. Tests that would make that file too long stand beside it,
as ``test_driver_ends.py``. Tests of several parts together are in ``integration``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
FOLDERS = {"stream_server": "server", "stream_client": "client", "stream_protocol": "protocol"}

WITHOUT_A_FILE: Mapping[str, str] = {}
"""Modules without a test file of their own, and why."""
OF_NO_MODULE: Mapping[str, str] = {
    "protocol/test_vectors.py": "the golden conversations are data; codec and connection pass them",
    "server/training/test_away.py": "the scripts of training/away",
}
"""Test files that mirror no module, and why."""
LONGEST = 600
"""Lines of a test file; ``test_layers.py`` has that of a module."""


def expected(module: str) -> str:
    """Return the test file of a module, relative to ``tests``."""
    package, *inner, name = module.split(".")
    return "/".join([FOLDERS[package], *inner, f"test_{name}.py"])


def _is_beside(file: str, wanted: Iterable[str]) -> bool:
    """Return whether a file goes on where one that mirrors a module ends."""
    return any(file.startswith(f"{each.removesuffix('.py')}_") for each in wanted)


def compare(modules: Iterable[str], files: Mapping[str, int]) -> list[str]:
    """Return what is missing or left over.

    Args:
        modules: full names of the modules that have something in them.
        files: test files relative to ``tests``, with the number of tests in each.
    """
    wanted = {expected(module): module for module in modules}
    excused = {expected(module) for module in WITHOUT_A_FILE}
    return [
        *(
            f"{module} has no test file {file}"
            for file, module in wanted.items()
            if file not in files and file not in excused
        ),
        *(f"{file} excuses a module that has its test" for file in excused & set(files)),
        *(
            f"{file} mirrors no module"
            for file in files
            if file not in wanted
            and file not in OF_NO_MODULE
            and not _is_beside(file, set(wanted) & set(files))
        ),
        *(f"{file} tests nothing" for file, count in files.items() if not count),
    ]


def _count_tests(path: Path) -> int:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return sum(
        isinstance(node, functions) and node.name.startswith("test_") for node in ast.walk(tree)
    )


def test_each_module_has_its_test_file(sources: tuple[Any, ...]) -> None:
    modules = [source.module for source in sources if not source.is_empty]
    files = {
        str(path.relative_to(TESTS)): _count_tests(path)
        for folder in FOLDERS.values()
        for path in sorted((TESTS / folder).rglob("test_*.py"))
    }
    assert compare(modules, files) == []


def test_no_test_file_is_too_long() -> None:
    sizes = {
        str(path.relative_to(TESTS)): len(path.read_text(encoding="utf-8").splitlines())
        for path in TESTS.rglob("*.py")
    }
    assert {file: size for file, size in sizes.items() if size > LONGEST} == {}


def test_what_is_missing_or_left_over_is_found(parse: Callable[..., Any]) -> None:
    modules = ["stream_server.session.driver", "stream_client.load"]
    right = {"server/session/test_driver.py": 3, "client/test_load.py": 1}
    assert compare(modules, right) == []
    assert compare(modules, {"client/test_load.py": 1}) == [
        "stream_server.session.driver has no test file server/session/test_driver.py"
    ]
    assert compare(modules, right | {"server/session/test_driver_ends.py": 1}) == []
    assert compare(modules, right | {"server/test_driver_ends.py": 1}) == [
        "server/test_driver_ends.py mirrors no module"
    ]
    assert compare(modules, right | {"server/test_driver.py": 1}) == [
        "server/test_driver.py mirrors no module"
    ]
    assert compare(modules, right | {"client/test_load.py": 0}) == [
        "client/test_load.py tests nothing"
    ]
