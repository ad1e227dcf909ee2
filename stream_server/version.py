"""The version of what is installed."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """Return the version of this distribution."""
    try:
        return importlib.metadata.version("diffscribe")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "0+source"


__all__ = ["version"]
