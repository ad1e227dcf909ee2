"""Manifests of made-up clips."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stream_server.recogniser.interface import SAMPLE_RATE


def _voice(seconds: float, pitch: float = 130.0) -> np.ndarray:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
    return (tones * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time)) * 0.15).astype(np.float32)


@pytest.fixture(scope="session")
def voice() -> Callable[..., np.ndarray]:
    """Makes something that the segmenter takes for speech."""
    return _voice


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes clips of a voice, each ``(name, text, speaker, seconds)`` or with a language."""

    def write(clips: Sequence[tuple[Any, ...]], folder: str = "toy") -> Path:
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        lines = []
        for name, text, speaker, seconds, *language in clips:
            soundfile.write(home / name, _voice(seconds), SAMPLE_RATE)
            entry = {"audio": name, "text": text, "speaker": speaker, "duration": seconds}
            lines.append(json.dumps({**entry, "language": language[0] if language else "en"}))
        (home / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return home / "manifest.jsonl"

    return write
