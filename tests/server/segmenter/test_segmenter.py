"""Endpointing on patterns of speech, without any detector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_protocol.messages import Endpointing
from stream_server.segmenter.segmenter import (
    FRAME,
    Segment,
    Segmenter,
    SegmentEvent,
    SpeechEnded,
    SpeechStarted,
)

MS = 16
"""Samples of a millisecond."""


def audio(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(frames * FRAME).astype(np.float32)


def pattern(*runs: tuple[int, int]) -> list[float]:
    """Frames as (silent, speech) counts, one pair after the other."""
    speech: list[float] = []
    for silent, spoken in runs:
        speech += [0.0] * silent + [1.0] * spoken
    return speech


def feed(
    segmenter: Segmenter, pcm: np.ndarray, speech: list[float], chunks: list[int] | None = None
) -> list[SegmentEvent]:
    events: list[SegmentEvent] = []
    position = 0
    for size in chunks or [len(speech)]:
        events += segmenter.feed(
            pcm[position * FRAME : (position + size) * FRAME], speech[position : position + size]
        )
        position += size
    if position < len(speech):
        events += segmenter.feed(pcm[position * FRAME :], speech[position:])
    return events


def finals(events: list[SegmentEvent]) -> list[Segment]:
    return [event for event in events if isinstance(event, Segment)]


def shape(events: list[SegmentEvent]) -> list[tuple[object, ...]]:
    return [
        (event.number, event.start, event.pcm.tobytes(), event.is_final)
        if isinstance(event, Segment)
        else (type(event).__name__, event.number, event.at)
        for event in events
    ]


def test_a_word_gets_preroll_and_tail_but_not_the_whole_pause() -> None:
    speech = pattern((50, 20), (60, 0))
    pcm = audio(len(speech))
    started, ended, segment = feed(Segmenter(Endpointing()), pcm, speech)
    assert started == SpeechStarted(0, 50 * FRAME)
    assert ended == SpeechEnded(0, 70 * FRAME)
    assert isinstance(segment, Segment)
    assert (segment.start, segment.onset) == (50 * FRAME - 300 * MS, 50 * FRAME)
    assert segment.end == 70 * FRAME + 200 * MS
    np.testing.assert_array_equal(segment.pcm, pcm[segment.start : segment.end])


def test_the_end_comes_with_the_frame_that_completes_the_pause() -> None:
    segmenter = Segmenter(Endpointing(silence_ms=300))
    speech = pattern((0, 10), (14, 0))
    assert finals(feed(segmenter, audio(24), speech)) == []
    assert len(finals(segmenter.feed(audio(1), [0.0]))) == 1


def test_speech_at_the_very_beginning_is_kept_from_the_first_sample() -> None:
    (segment,) = finals(feed(Segmenter(Endpointing(), 777), audio(60), pattern((0, 20), (40, 0))))
    assert segment.start == 777


def test_a_burst_under_the_minimum_makes_no_event() -> None:
    speech = pattern((20, 9), (60, 0))
    segmenter = Segmenter(Endpointing(min_speech_ms=200))
    assert feed(segmenter, audio(len(speech)), speech) == []
    assert segmenter.flush() == []


def test_scattered_clicks_are_not_a_word_and_do_not_hold_one_open() -> None:
    clicks = [1.0 if index % 6 == 0 else 0.0 for index in range(300)]
    segmenter = Segmenter(Endpointing())
    assert feed(segmenter, audio(300), clicks) == []
    (segment,) = finals(feed(segmenter, audio(330), [1.0] * 30 + clicks))
    assert segment.end <= (300 + 31) * FRAME + 200 * MS


def test_a_minute_of_silence_gives_nothing_and_keeps_little() -> None:
    segmenter = Segmenter(Endpointing())
    for _ in range(600):
        assert segmenter.feed(np.zeros(5 * FRAME, np.float32), [0.0] * 5) == []
    assert segmenter.snapshot() is None
    assert segmenter._audio.end - segmenter._audio.start < 16_000
    assert segmenter._audio.capacity <= 1 << 15


def test_memory_is_bounded_by_the_longest_segment() -> None:
    segmenter = Segmenter(Endpointing(max_segment_ms=2000))
    for _ in range(1000):
        segmenter.feed(audio(5), [1.0] * 5)
        assert segmenter._audio.end - segmenter._audio.start <= 2000 * MS
    assert segmenter._audio.capacity <= 1 << 18


def test_long_speech_is_cut_at_its_quietest_point_without_loss() -> None:
    pcm = audio(400)
    quiet = slice(130 * FRAME, 135 * FRAME)
    pcm[quiet] *= 0.01
    segmenter = Segmenter(Endpointing(max_segment_ms=3000))
    events = [*feed(segmenter, pcm, [1.0] * 400), *segmenter.flush()]
    segments = finals(events)
    assert segments[0].end == 132 * FRAME
    assert all(len(segment.pcm) <= 3000 * MS for segment in segments)
    np.testing.assert_array_equal(np.concatenate([each.pcm for each in segments]), pcm)
    kinds = [type(event) for event in events]
    assert kinds == [SpeechStarted, SpeechEnded, Segment] * len(segments)
    assert SpeechStarted(1, 132 * FRAME) in events
    assert segments[1].onset == segments[1].start == 132 * FRAME


def test_a_maximum_reached_in_a_pause_ends_there() -> None:
    speech = pattern((0, 95), (60, 0))
    pcm = audio(len(speech))
    pcm[95 * FRAME :] = 0.0
    segmenter = Segmenter(Endpointing(max_segment_ms=2000, silence_ms=1000))
    events = feed(segmenter, pcm, speech)
    assert [type(event) for event in events] == [SpeechStarted, SpeechEnded, Segment]
    assert events[1] == SpeechEnded(0, 95 * FRAME)


def test_flush_ends_what_runs_now_and_twice_gives_nothing_more() -> None:
    segmenter = Segmenter(Endpointing())
    feed(segmenter, audio(30), pattern((10, 20)))
    (segment,) = finals(segmenter.flush())
    assert (segment.start, segment.end) == (0, 30 * FRAME)
    assert segmenter.flush() == []
    # What goes on after a flush begins exactly there.
    started, *_ = segmenter.feed(audio(20), [1.0] * 20)
    assert started == SpeechStarted(1, 30 * FRAME)
    assert finals(segmenter.flush())[0].start == 30 * FRAME


def test_flush_in_a_pause_keeps_a_word_that_is_just_beginning() -> None:
    segmenter = Segmenter(Endpointing())
    feed(segmenter, audio(36), pattern((0, 20), (15, 1)))
    (segment,) = finals(segmenter.flush())
    assert segment.end == 36 * FRAME


def test_snapshot_is_the_running_segment_without_its_pause() -> None:
    segmenter = Segmenter(Endpointing())
    pcm = audio(60)
    assert segmenter.snapshot() is None
    feed(segmenter, pcm[: 40 * FRAME], pattern((20, 20)))
    first = segmenter.snapshot()
    assert first is not None
    assert not first.is_final
    assert (first.start, first.end) == (5 * FRAME, 40 * FRAME)
    segmenter.feed(pcm[40 * FRAME : 60 * FRAME], [0.0] * 20)
    second = segmenter.snapshot()
    assert second is not None
    assert second.end == 50 * FRAME
    np.testing.assert_array_equal(second.pcm, pcm[second.start : second.end])


@pytest.mark.parametrize(
    ("silence_ms", "pause"), [(500, 10), (450, 8), (240, 5), (200, 5), (120, 5), (1000, 35)]
)
def test_an_end_is_likely_before_it_is_certain(silence_ms: int, pause: int) -> None:
    segmenter = Segmenter(Endpointing(silence_ms=silence_ms))
    assert segmenter.likely_end is None
    pcm = audio(100)
    feed(segmenter, pcm[: 30 * FRAME], pattern((10, 20)))
    for frame in range(1, pause):
        segmenter.feed(audio(1), [0.0])
        assert segmenter.likely_end is None, frame
    segmenter.feed(audio(1), [0.0])
    assert segmenter.likely_end == (30 + min(pause, 10)) * FRAME
    likely = segmenter.snapshot(segmenter.likely_end)
    assert likely is not None
    events = segmenter.feed(audio(60), [0.0] * 60)
    (segment,) = finals(events)
    assert (segment.start, segment.end) == (likely.start, likely.end)
    np.testing.assert_array_equal(segment.pcm, likely.pcm)


def test_no_end_is_likely_where_the_pause_is_too_short_for_it() -> None:
    segmenter = Segmenter(Endpointing(silence_ms=100))
    for is_speech in pattern((10, 20), (4, 0)):
        segmenter.feed(audio(1), [is_speech])
        assert segmenter.likely_end is None


def test_speech_that_goes_on_is_not_likely_to_end() -> None:
    segmenter = Segmenter(Endpointing())
    feed(segmenter, audio(45), pattern((10, 20), (15, 0)))
    assert segmenter.likely_end is not None
    segmenter.feed(audio(2), [1.0] * 2)
    assert segmenter.likely_end is None


def test_configure_changes_the_pause_while_running() -> None:
    segmenter = Segmenter(Endpointing(silence_ms=5000))
    assert len(feed(segmenter, audio(80), pattern((0, 30), (50, 0)))) == 1
    segmenter.configure(Endpointing(silence_ms=200))
    assert len(finals(segmenter.feed(audio(1), [0.0]))) == 1


def test_a_shorter_maximum_cuts_soon_but_not_in_what_was_heard_already() -> None:
    segmenter = Segmenter(Endpointing())
    feed(segmenter, audio(400), [1.0] * 400)
    segmenter.configure(Endpointing(max_segment_ms=2000))
    segments = finals([*feed(segmenter, audio(300), [1.0] * 300), *segmenter.flush()])
    assert 400 * FRAME <= len(segments[0].pcm) <= 600 * FRAME
    assert all(len(each.pcm) <= 2000 * MS for each in segments[1:])
    assert sum(len(each.pcm) for each in segments) == 700 * FRAME


def test_a_longer_maximum_holds_for_the_running_segment_too() -> None:
    segmenter = Segmenter(Endpointing(max_segment_ms=2000))
    feed(segmenter, audio(90), [1.0] * 90)
    segmenter.configure(Endpointing(max_segment_ms=4000))
    assert finals(segmenter.feed(audio(100), [1.0] * 100)) == []
    assert len(finals(segmenter.feed(audio(10), [1.0] * 10))) == 1


@settings(max_examples=80, deadline=None)
@given(
    maxima=st.lists(st.tuples(st.integers(1, 200), st.integers(2000, 8000)), min_size=1, max_size=8)
)
def test_no_cut_comes_before_what_was_said_to_be_the_earliest(
    maxima: list[tuple[int, int]],
) -> None:
    segmenter = Segmenter(Endpointing())
    assert segmenter.earliest_cut is None
    promised = 0
    for frames, maximum in maxima:
        segmenter.configure(Endpointing(max_segment_ms=maximum))
        for _ in range(frames):
            events = segmenter.feed(audio(1, seed=frames), [1.0])
            for segment in finals(events):
                assert segment.end >= promised
                promised = 0
            # Only what has been heard can have been shown to anybody.
            if segmenter.earliest_cut is not None:
                promised = max(promised, min(segmenter.earliest_cut, segmenter.position))


def test_lengths_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="321 samples are not 1 frames of 320"):
        Segmenter(Endpointing()).feed(np.zeros(321, np.float32), [0.0])


@pytest.mark.parametrize(("silent", "missing"), [(0, 10), (1, 9), (9, 1), (10, 0), (20, 0)])
def test_what_a_flush_cut_off_of_the_pause_is_missing(silent: int, missing: int) -> None:
    segmenter = Segmenter(Endpointing())
    feed(segmenter, audio(40 + silent), pattern((0, 40), (silent, 0)))
    (segment,) = finals(segmenter.flush())
    assert segment.missing == missing * FRAME
    whole = segment.with_pause(10**6)
    assert len(whole) == len(segment.pcm) + missing * FRAME
    np.testing.assert_array_equal(whole[: len(segment.pcm)], segment.pcm)
    assert len(segment.with_pause(len(segment.pcm) + 100)) <= len(segment.pcm) + 100


def test_what_is_missing_is_made_of_the_quietest_that_was_heard() -> None:
    pcm = audio(20) * 0.1
    pcm[5 * FRAME : 6 * FRAME] *= 0.001
    made = Segment(0, 0, pcm, is_final=True, missing=3 * FRAME + 7).with_pause(10**6)[len(pcm) :]
    quiet = pcm[5 * FRAME : 6 * FRAME]
    np.testing.assert_array_equal(made[:FRAME], quiet)
    np.testing.assert_array_equal(made[FRAME : 2 * FRAME], quiet[::-1])
    loud = Segment(0, 0, audio(20), is_final=True, missing=FRAME).with_pause(10**6)[20 * FRAME :]
    assert 0 < np.sqrt(np.mean(loud**2)) < 0.011


def test_what_is_decoded_is_the_audio_with_its_pause_and_noise_of_its_place() -> None:
    segment = Segment(3, 7 * FRAME, audio(20), is_final=True, missing=3 * FRAME)
    asked = segment.utterance(10**6, 5, "de", draft=(8, 9), trace=True)
    np.testing.assert_array_equal(asked.pcm, segment.with_pause(10**6))
    assert len(asked.pcm) == 23 * FRAME
    assert asked.seed == 7 * FRAME
    assert (asked.steps, asked.language, asked.draft, asked.trace) == (5, "de", (8, 9), True)
    plain = segment.utterance(20 * FRAME, 1, None)
    assert len(plain.pcm) == 20 * FRAME, "no longer than the recogniser takes"
    assert (plain.language, plain.draft, plain.trace) == (None, (), False)


def test_segments_that_ended_by_themselves_miss_nothing() -> None:
    events = feed(Segmenter(Endpointing()), audio(100), pattern((10, 30), (60, 0)))
    assert [segment.missing for segment in finals(events)] == [0]


speech_patterns = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=12
).map(lambda runs: pattern(*runs))
noisy_patterns = st.lists(st.sampled_from([0.0, 0.2, 0.6, 1.0]), min_size=1, max_size=400)
endpointings = st.builds(
    Endpointing,
    silence_ms=st.integers(100, 900),
    max_segment_ms=st.integers(2000, 4000),
    min_speech_ms=st.integers(0, 2000),
)


@settings(max_examples=120, deadline=None)
@given(
    speech=speech_patterns | noisy_patterns,
    endpointing=endpointings,
    start=st.integers(0, 10**9),
    data=st.data(),
)
def test_whatever_is_said_and_however_it_is_chunked(
    speech: list[float], endpointing: Endpointing, start: int, data: st.DataObject
) -> None:
    pcm = audio(len(speech), seed=len(speech))
    whole = Segmenter(endpointing, start)
    events = [*feed(whole, pcm, speech), *whole.flush()]

    chunks: list[int] = []
    while sum(chunks) < len(speech):
        chunks.append(data.draw(st.integers(0, min(50, len(speech) - sum(chunks)))) or 1)
    pieces = Segmenter(endpointing, start)
    assert shape([*feed(pieces, pcm, speech, chunks), *pieces.flush()]) == shape(events)

    segments = finals(events)
    kinds = [type(event) for event in events]
    assert kinds == [SpeechStarted, SpeechEnded, Segment] * len(segments)
    assert [segment.number for segment in segments] == list(range(len(segments)))
    assert len(pcm) == len(speech) * FRAME == whole.position - start
    previous = start
    covered = np.zeros(len(speech), bool)
    for segment in segments:
        assert previous <= segment.start < segment.end <= whole.position
        assert len(segment.pcm) <= endpointing.max_segment_ms * MS
        np.testing.assert_array_equal(segment.pcm, pcm[segment.start - start : segment.end - start])
        covered[(segment.start - start) // FRAME : (segment.end - start) // FRAME] = True
        previous = segment.end

    least = max(1, -(-endpointing.min_speech_ms // 20))
    run = 0
    for index, probability in enumerate([*speech, 0.0]):
        if probability >= 0.5:
            run += 1
        else:
            if run >= least:
                assert covered[index - run : index].all()
            run = 0


@settings(max_examples=120, deadline=None)
@given(
    speech=speech_patterns | noisy_patterns,
    endpointing=endpointings,
    data=st.data(),
)
def test_begun_anew_at_the_end_of_any_segment_it_goes_on_the_same(
    speech: list[float], endpointing: Endpointing, data: st.DataObject
) -> None:
    pcm = audio(len(speech), seed=len(speech))
    whole = Segmenter(endpointing)
    events = [*feed(whole, pcm, speech), *whole.flush()]
    ended = {event.number: event.at for event in events if isinstance(event, SpeechEnded)}
    started = {event.at for event in events if isinstance(event, SpeechStarted)}
    segments = finals(events)
    if not segments:
        return
    last = data.draw(st.sampled_from(segments))
    place = last.end // FRAME
    again = Segmenter(endpointing, last.end)
    rest = list[SegmentEvent]()
    if last.end == ended[last.number] and last.end in started:
        rest += again.go_on(speech[:place][-256:])
    rest += [*feed(again, pcm[last.end :], speech[place:]), *again.flush()]
    assert [(each.start, each.pcm.tobytes()) for each in finals(rest)] == [
        (each.start, each.pcm.tobytes()) for each in segments[last.number + 1 :]
    ]
