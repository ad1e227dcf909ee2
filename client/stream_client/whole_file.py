"""A file that is complete at each moment, however often it is written.

A player, a page or an editor may open it whenever it likes: each state of it is written beside it
and then put in its place, so nobody reads half of one. Who holds it open keeps the state that was
there, and opens it again for the next.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from stream_client.errors import OutputError


def replace_file(path: Path, text: str) -> None:
    """Put ``text`` in the place of what is in a file; what a link points to, and not the link.

    Raises:
        OutputError: it cannot be written; what was there is still there.
    """
    target = path.resolve()
    new = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


__all__ = ["replace_file"]
