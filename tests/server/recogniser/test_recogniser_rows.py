"""Audio of every kind gets its row, and rows leave nothing behind."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np
import pytest

from stream_server.recogniser.interface import Utterance
from stream_server.recogniser.model import TranscriptionModel
from stream_server.recogniser.recogniser import MIN_SAMPLES, DiffusionRecogniser
from tests.server.recogniser.scripted import MakeRecogniser, deafen, decode, finish, sound

# Audio


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 161, MIN_SAMPLES - 1, MIN_SAMPLES])
def test_short_audio_is_decoded(recogniser: DiffusionRecogniser, samples: int) -> None:
    rows = recogniser.start([Utterance(sound(samples), steps=2), Utterance(sound(20_000), steps=2)])
    alone = recogniser.start([Utterance(sound(samples), steps=2)])
    assert rows[0].ctc.logs.shape == alone[0].ctc.logs.shape
    np.testing.assert_allclose(rows[0].ctc.logs, alone[0].ctc.logs, atol=1e-3)
    for said in finish(recogniser, *rows):
        assert said[-1].is_final


def test_silence_is_decoded(recogniser: DiffusionRecogniser) -> None:
    last = decode(recogniser, Utterance(np.zeros(16_000, np.float32), steps=2))[-1]
    assert all(np.isfinite(last.confidences))


def test_longer_audio_than_the_longest_is_decoded_whole(
    make_model: Callable[..., TranscriptionModel], make: MakeRecogniser
) -> None:
    # The limit is for those who cut segments; it is not enforced here.
    recogniser = make(deafen(make_model(max_seconds=1.0)))
    assert recogniser.info.max_samples == 16_000
    pcm = sound(3 * 16_000)
    (row,) = recogniser.start([Utterance(pcm, steps=1)])
    assert len(row.ctc.logs) * 640 >= len(pcm)
    finish(recogniser, row)


def test_audio_that_may_not_be_written_to_is_fine(recogniser: DiffusionRecogniser) -> None:
    pcm = np.frombuffer(sound(8000).tobytes(), np.float32)
    assert not pcm.flags.writeable
    assert decode(recogniser, Utterance(pcm, steps=1))[-1].is_final


def test_the_audio_is_left_as_it_was(recogniser: DiffusionRecogniser) -> None:
    pcm = sound(8000)
    before = pcm.copy()
    decode(recogniser, Utterance(pcm, steps=2))
    np.testing.assert_array_equal(pcm, before)


# Coming and going


def test_rows_can_be_released_in_any_state(recogniser: DiffusionRecogniser) -> None:
    rows = recogniser.start([Utterance(sound(8000), steps=2) for _ in range(3)])
    recogniser.release([])
    recogniser.release(rows[:1])
    finish(recogniser, rows[1])
    recogniser.release(rows)
    recogniser.release(rows)
    recogniser.release([object()])  # type: ignore[list-item]
    assert len(recogniser.step(rows[2:])) == 1


def test_rows_leave_and_others_come_without_a_trace(recogniser: DiffusionRecogniser) -> None:
    utterances = [Utterance(sound(5000 + 500 * i, i), steps=3, seed=i) for i in range(6)]
    alone = [recogniser.step(recogniser.start([each]))[0].tokens for each in utterances]
    rows = list(recogniser.start(utterances[:2]))
    assert recogniser.step(rows)[1].tokens == alone[1]
    for index in range(2, 6):
        recogniser.release([rows.pop(0)])
        rows += recogniser.start([utterances[index]])
        assert recogniser.step(rows)[1].tokens == alone[index]


def test_a_row_is_never_taken_for_one_that_was_forgotten(recogniser: DiffusionRecogniser) -> None:
    # Prompts are told apart by place; a place must not be free again while it is remembered.
    (row,) = recogniser.start([Utterance(sound(8000), steps=3)])
    recogniser.step([row])
    prompt = weakref.ref(row.cache.keys[0])
    del row
    assert prompt() is not None
    recogniser.release([])
    assert prompt() is None
