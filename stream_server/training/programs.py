"""Programs that training runs and that come from the system."""

from __future__ import annotations

import shutil

from stream_server.errors import DiffscribeError


def require(*programs: str) -> None:
    """Find programs, each in a Debian package of its name, before anything long begins.

    Raises:
        DiffscribeError: one is not installed; names the package.
    """
    for program in programs:
        if shutil.which(program) is None:
            raise DiffscribeError(f"{program} is not installed: apt-get install {program}")


__all__ = ["require"]
