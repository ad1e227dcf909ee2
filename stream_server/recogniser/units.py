"""In what amounts the step engine works: a unit is a stretch of a canvas or of a prompt.

Pure. Graphs have fixed shapes, so there is one for each of some amounts, and fewer are filled up.
"""

from __future__ import annotations

from collections.abc import Sequence

UNITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
"""Units of canvases in a graph of a step; fewer are filled up."""
PROMPT_UNITS = (0, 2, 4, 8, 16, 32)
"""Units of prompts in a graph of a step; what is more is run before it, the last so many at a
time."""


def bucket(count: int, sizes: Sequence[int]) -> int:
    """Return the smallest of ``sizes``, which ascend, that holds ``count``.

    Raises:
        ValueError: none does.
    """
    for size in sizes:
        if size >= count:
            return size
    raise ValueError(f"{count} is more than {sizes[-1]}")


def split_rows(counts: Sequence[int], most: int) -> list[list[int]]:
    """Return which rows share a step: all of them, unless they have more than ``most`` units.

    Args:
        counts: units of each row's canvas.
        most: units of a step.
    """
    groups: list[list[int]] = []
    left = 0
    for row, count in enumerate(counts):
        if count > left or not groups:
            groups.append([])
            left = most
        groups[-1].append(row)
        left -= count
    return groups


__all__ = ["PROMPT_UNITS", "UNITS", "bucket", "split_rows"]
