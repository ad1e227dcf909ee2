"""What values an option may have: each says whether a value is allowed, and in words what is."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included."""

    low: float
    high: float

    def __call__(self, value: Any) -> bool:
        """Return whether ``value`` is allowed."""
        return math.isfinite(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Strings, or lists of strings, that match wholly."""

    regex: str
    text: str
    """The same in words."""

    def __call__(self, value: Any) -> bool:
        """Return whether ``value`` is allowed."""
        parts = (value,) if isinstance(value, str) else value
        return all(re.fullmatch(self.regex, part) for part in parts)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Switch:
    """Either way."""

    def __call__(self, value: Any) -> bool:
        """Return whether ``value`` is allowed."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


__all__ = ["Pattern", "Range", "Switch"]
