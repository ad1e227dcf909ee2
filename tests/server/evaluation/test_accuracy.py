"""Whole clips are decoded alone or together, and each keeps its own text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stream_server.evaluation.accuracy import PADDING, decode, hear
from stream_server.evaluation.manifest import Selection, read_examples
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import SAMPLE_RATE, Utterance


def test_decode_runs_every_row_to_its_end_and_releases_it(
    voice: Callable[..., np.ndarray],
) -> None:
    fake = FakeRecogniser()
    together = decode(fake, [Utterance(voice(1.0), 2), Utterance(voice(0.6), 5)])
    assert [hypothesis.is_final for hypothesis in together] == [True, True]
    assert [hypothesis.step for hypothesis in together] == [2, 5]
    assert fake.live_rows == 0


def test_a_batch_hears_what_single_clips_do(write_manifest: Callable[..., Path]) -> None:
    clips = [("a.wav", "x", "s", 1.5), ("b.wav", "x", "s", 0.4), ("c.wav", "x", "s", 0.9)]
    examples = read_examples(write_manifest(clips), Selection())
    alone = hear(FakeRecogniser(), examples, 4)
    seen: list[int] = []

    def progress(batches: list[list[object]]) -> list[list[object]]:
        seen.extend(len(batch) for batch in batches)
        return batches

    together = hear(FakeRecogniser(), examples, 4, 2, progress)  # type: ignore[arg-type]
    assert seen == [2, 1]
    assert [each.example for each in together] == examples
    assert [each.text for each in together] == [each.text for each in alone]
    assert len({each.text for each in alone}) == 3
    assert [each.steps for each in alone] == [4, 4, 4]
    assert alone[0].audio == pytest.approx(1.5 + 2 * PADDING / SAMPLE_RATE)
    assert all(each.seconds > 0 for each in together)


def test_a_pair_has_the_reference(write_manifest: Callable[..., Path]) -> None:
    examples = read_examples(write_manifest([("a.wav", "hello", "s", 0.5)]), Selection())
    pair = hear(FakeRecogniser(), examples, 2)[0].pair
    assert (pair.reference, pair.language) == ("hello", "en")
