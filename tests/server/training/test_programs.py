"""What is not installed is named, with its package."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_server.errors import DiffscribeError
from stream_server.training.programs import require


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("flite", "espeak-ng"):
        with pytest.raises(DiffscribeError, match=f"apt-get install {name}$"):
            require("flite", "espeak-ng")
        (tmp_path / name).touch(0o755)
    require("flite", "espeak-ng")
