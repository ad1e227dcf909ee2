"""Real speech for the long runs: sentences with pauses, of many speakers; or the repository's clip.

The recordings lie beside the checkout, in ``../shared/speech``; where they are absent, every stream
plays ``tests/data/digits.opus``.
"""

from __future__ import annotations

import json
from pathlib import Path

from stream_client.sources import decode_file

ROOT = Path(__file__).parents[2]
SPEECH = ROOT.parent / "shared" / "speech"
DIGITS = ROOT / "tests" / "data" / "digits.opus"
_SETS = ("ljspeech", "speechocean762", "kathleen", "philipp", "commonvoice_few", "grid_s1")
_PAUSE = bytes(2 * 16_000)
"""A second between two sentences, as 16 kHz mono s16le."""


def clips(count: int, seconds: float) -> list[bytes]:
    """Return ``count`` clips of ``seconds``, as 16 kHz mono s16le."""
    return [_clip(index, seconds) for index in range(count)]


def _clip(index: int, seconds: float) -> bytes:
    size = int(seconds * 16_000) * 2
    files = _files(index)
    audio = b""
    while len(audio) < size:
        audio += _PAUSE + b"".join(decode_file(files[0]))
        files = [*files[1:], files[0]]
    return audio[:size]


def _files(index: int) -> list[Path]:
    """Return the files of one clip: a set, from a place in it that differs from clip to clip."""
    found = [SPEECH / name for name in _SETS if (SPEECH / name / "manifest.jsonl").exists()]
    if not found:
        return [DIGITS]
    folder = found[index % len(found)]
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    names = [json.loads(line)["audio"] for line in lines]
    first = 37 * index % len(names)
    return [folder / name for name in (*names[first:], *names[:first])][:50]


__all__ = ["DIGITS", "SPEECH", "clips"]
