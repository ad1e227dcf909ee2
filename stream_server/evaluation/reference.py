"""Other people's recognisers behind our interface, so that the same clips measure them too.

They have no steps: a row is finished by its first one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream_server.recogniser.interface import (
    Hypothesis,
    HypothesisWord,
    RecogniserInfo,
    Row,
    Utterance,
)

Transcribe = Callable[[Sequence[Utterance]], Sequence[str]]
"""From utterances to their texts, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceRow:
    """An utterance that waits for its only step."""

    utterance: Utterance


@dataclass(frozen=True, slots=True)
class Reference:
    """A recogniser of whole utterances; see ``interface.Recogniser``.

    Words have neither times nor confidences (which are 1, therefore).
    """

    info: RecogniserInfo
    transcribe: Transcribe

    def warm_up(self) -> None:
        """There is nothing of ours to warm."""

    def start(self, utterances: Sequence[Utterance]) -> Sequence[ReferenceRow]:
        """Keep utterances for the step."""
        return [ReferenceRow(utterance) for utterance in utterances]

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        """Recognise each row."""
        utterances = [row.utterance for row in rows]
        texts = self.transcribe(utterances)
        return [
            Hypothesis(
                tokens=(),
                confidences=(),
                words=_words(text),
                step=1,
                is_final=True,
                language=utterance.language,
            )
            for text, utterance in zip(texts, utterances, strict=True)
        ]

    def release(self, rows: Sequence[Row]) -> None:
        """There is nothing to forget."""


def _words(text: str) -> tuple[HypothesisWord, ...]:
    words = text.split()
    return tuple(HypothesisWord(f" {word}" if i else word, 1.0) for i, word in enumerate(words))


__all__ = ["Reference", "ReferenceRow", "Transcribe"]
