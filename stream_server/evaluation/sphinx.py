"""PocketSphinx with the English model that its package brings: a reference from outside.

A hidden-Markov recogniser with a trigram language model, CMU, 2000s: what a small, free recogniser
for a CPU was before neural ones. It decodes one utterance after another, on one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_server.errors import ModelError
from stream_server.evaluation.reference import Reference
from stream_server.recogniser.interface import SAMPLE_RATE, RecogniserInfo, Utterance

_INFO = RecogniserInfo(
    name="pocketsphinx en-us",
    languages=("en",),
    max_samples=600 * SAMPLE_RATE,
    max_rows=8,
    default_steps=1,
)


def load_sphinx() -> Reference:
    """Load its default model.

    Raises:
        ModelError: the package is not installed.
    """
    try:
        import pocketsphinx
    except ModuleNotFoundError as error:
        needs = "pip install 'diffscribe[reference]'"
        raise ModelError(f"pocketsphinx is not installed: {needs}") from error
    return Reference(_INFO, _Decoder(pocketsphinx.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")))


class _Decoder:
    """From utterances to texts."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def __call__(self, utterances: Sequence[Utterance]) -> list[str]:
        return [self._decode(utterance) for utterance in utterances]

    def _decode(self, utterance: Utterance) -> str:
        data = np.clip(np.rint(utterance.pcm * 32767), -32768, 32767).astype("<i2").tobytes()
        self._decoder.start_utt()
        self._decoder.process_raw(data, full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return "" if found is None else str(found.hypstr)


__all__ = ["load_sphinx"]
