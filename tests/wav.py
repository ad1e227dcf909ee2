"""Sound as a WAV file, for the tests that send one."""

from __future__ import annotations

import io
import wave


def to_wav(pcm: bytes) -> bytes:
    """Return a WAV file of 16 kHz mono s16le."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        writer.writeframes(pcm)
    return file.getvalue()


__all__ = ["to_wav"]
