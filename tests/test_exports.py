"""Public names are exactly ``__all__``, in order: constants, then types, then functions.

A name is public when the module defines it at its top level without a leading underscore. What it
only imports is not its own; a command of the command line may be listed or not.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

import pytest


def _targets(node: ast.expr) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            yield each.id


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    calls = [each.func for each in node.decorator_list if isinstance(each, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr == "command" for call in calls)


def _definitions(body: list[ast.stmt]) -> Iterator[str]:
    """The names that a module defines, under conditions too."""
    for node in body:
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield name
            case ast.Assign(targets=targets):
                for target in targets:
                    yield from _targets(target)
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.If(body=inner, orelse=other) | ast.Try(body=inner, orelse=other):
                yield from _definitions([*inner, *other])


def _order(name: str) -> tuple[int, str]:
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


def check(source: Any) -> list[str]:
    """Return what is wrong with the exports of a module."""
    if source.is_empty:
        return []
    listed = [
        ast.literal_eval(node.value)
        for node in source.tree.body
        if isinstance(node, ast.Assign) and "__all__" in _targets(node.targets[0])
    ]
    if len(listed) != 1:
        return [f"{source.module}: one __all__, please, there are {len(listed)}"]
    names = list(listed[0])
    public = {name for name in _definitions(source.tree.body) if not name.startswith("_")}
    commands = {
        node.name
        for node in source.tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_command(node)
    }
    missing = public - commands - set(names)
    problems = [
        *(f"{name} is public and not in __all__" for name in sorted(missing)),
        *(f"{name} is in __all__ and not defined" for name in sorted(set(names) - public)),
    ]
    if names != sorted(set(names), key=_order):
        problems.append(f"__all__ should be {sorted(set(names), key=_order)}")
    return [f"{source.module}: {problem}" for problem in problems]


def test_public_names_are_all(sources: tuple[Any, ...]) -> None:
    assert [problem for source in sources for problem in check(source)] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "there are 0"),
        ("x = 1\n__all__ = ['x']\n__all__ = ['x']", "there are 2"),
        ("def f(): ...\n__all__ = []", "f is public"),
        ("a, b = range(2)\n__all__ = ['a']", "b is public"),
        ("a: int = 1\n__all__ = []", "a is public"),
        ("if True:\n    class A: ...\n__all__ = []", "A is public"),
        ("from os import path\n__all__ = ['path']", "path is in __all__ and not defined"),
        ("def _f(): ...\n__all__ = ['_f']", "_f is in __all__"),
        ("def a(): ...\nB = 1\n__all__ = ['a', 'B']", "should be ['B', 'a']"),
        ("def a(): ...\n__all__ = ['a', 'a']", "should be ['a']"),
    ],
)
def test_a_wrong_module_is_found(parse: Callable[..., Any], text: str, said: str) -> None:
    assert any(said in problem for problem in check(parse("stream_server.x", text)))


def test_a_right_module_passes(parse: Callable[..., Any]) -> None:
    text = (
        "import os\n_hidden = 1\n@app.command()\ndef serve(): ...\n"
        "LIMIT = 1\nclass Thing: ...\nasync def act(): ...\n__all__ = ['LIMIT', 'Thing', 'act']"
    )
    assert check(parse("stream_server.x", text)) == []
