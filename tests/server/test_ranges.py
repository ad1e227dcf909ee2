"""A range says what it allows, and allows what it says."""

from __future__ import annotations

import pytest

from stream_server.ranges import Pattern, Range, Switch


@pytest.mark.parametrize(
    ("allowed", "right", "wrong", "text"),
    [
        (Range(0, 5), (0, 5, 2.5), (-1, 6, float("nan"), float("inf")), "0 to 5"),
        (Pattern("[a-c]+", "a to c"), ("abc", ("a", "b"), ()), ("", "abd", ("a", "x")), "a to c"),
        (Switch(), (True, False), (1, 0, "true"), "true or false"),
    ],
)
def test_what_is_allowed(
    allowed: Range | Pattern | Switch,
    right: tuple[object, ...],
    wrong: tuple[object, ...],
    text: str,
) -> None:
    assert [value for value in right if not allowed(value)] == []
    assert [value for value in wrong if allowed(value)] == []
    assert str(allowed) == text
