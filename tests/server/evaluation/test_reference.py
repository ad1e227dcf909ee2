"""References look like our recogniser from outside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_server.evaluation.accuracy import decode
from stream_server.evaluation.reference import Reference
from stream_server.recogniser.fake import FAKE_INFO
from stream_server.recogniser.interface import Recogniser, Utterance


def lengths(utterances: Sequence[Utterance]) -> list[str]:
    return [f"it has {len(utterance.pcm)} samples" for utterance in utterances]


def test_a_row_is_finished_by_its_only_step() -> None:
    reference: Recogniser = Reference(FAKE_INFO, lengths)
    reference.warm_up()
    audio = np.zeros(16_000, np.float32)
    first, second = decode(reference, [Utterance(audio, 8, "en"), Utterance(audio[:5], 8)])
    assert first.text == "it has 16000 samples"
    assert second.text == "it has 5 samples"
    assert [word.text for word in first.words] == ["it", " has", " 16000", " samples"]
    assert (first.step, first.is_final, first.language) == (1, True, "en")


def test_nothing_heard_is_no_word() -> None:
    reference = Reference(FAKE_INFO, lambda utterances: ["" for _ in utterances])
    assert decode(reference, [Utterance(np.zeros(5, np.float32), 8)])[0].words == ()
