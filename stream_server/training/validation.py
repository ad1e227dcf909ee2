"""How many words of the clips kept for testing are wrong, while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from stream_server.recogniser.interface import Utterance, run_to_end
from stream_server.recogniser.recogniser import DiffusionRecogniser
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.pack import RATE, Packed

_ROWS = 32


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Word error rates of a set."""

    ctc: float
    """Of the projector's CTC, best path."""
    final: float
    """Of the diffusion decoder."""


def _hear(
    recogniser: DiffusionRecogniser, tokenizer: Tokenizer, clips: Sequence[Packed]
) -> list[tuple[str, str]]:
    """Return what CTC and the decoder hear of each clip."""
    silence = np.zeros(RATE // 5, np.float32)
    utterances = [
        Utterance(np.concatenate([silence, clip.pcm.astype(np.float32) / 32768, silence]), 8, "en")
        for clip in clips
    ]
    rows = recogniser.start(utterances)
    drafts = [tokenizer.decode(row.ctc.draft()) for row in rows]
    texts = [each.text.strip() for each in run_to_end(recogniser, rows)]
    return list(zip(drafts, texts, strict=True))


def validate(
    recogniser: DiffusionRecogniser, tokenizer: Tokenizer, clips: Sequence[Packed], most: int
) -> dict[str, WordErrors]:
    """Return the word error rates of each set, on at most ``most`` of its clips."""
    sets: dict[str, list[Packed]] = {}
    for clip in clips:
        sets.setdefault(clip.set, []).append(clip)
    results = {}
    for name, found in sorted(sets.items()):
        picked = [
            found[i] for i in np.linspace(0, len(found) - 1, min(most, len(found))).astype(int)
        ]
        picked.sort(key=lambda clip: len(clip.pcm))
        heard = []
        for start in range(0, len(picked), _ROWS):
            heard += _hear(recogniser, tokenizer, picked[start : start + _ROWS])
        texts = [clip.text for clip in picked]
        results[name] = WordErrors(
            round(float(jiwer.wer(texts, [draft for draft, _ in heard])), 4),
            round(float(jiwer.wer(texts, [text for _, text in heard])), 4),
        )
    return results


__all__ = ["WordErrors", "validate"]
