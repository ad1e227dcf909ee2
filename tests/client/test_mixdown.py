"""The mix of all, and who was loudest in it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_client.mixdown import FRAME, Mixdown, MixReader, Run, split_by_speaker
from stream_client.timeline import Placement, Timeline
from stream_protocol.messages import Ack, Final, Partial, Timings, Word


def pcm(*values):
    return np.array(values, "<i2").tobytes()


def tone(level, frames):
    return np.full(frames * FRAME, level, "<i2").tobytes()


def final(text, words=None, start=0, end=10 * FRAME):
    timings = Timings(1.0, 1.0, 1.0, 1)
    return Final(3, 0, 2, text, start, end, "en", 0.5, words, timings)


def word(text, first, last):
    return Word(text, first * FRAME, last * FRAME, 0.5)


def test_it_is_the_sum_with_silence_between():
    mix = Mixdown()
    mix.add(0, 0, pcm(1, 2, 3))
    mix.add(1, 2, pcm(10, 20))
    assert mix.take(2) == pcm(1, 2)
    assert mix.take(6) == pcm(13, 20, 0, 0)
    assert mix.cursor == 6
    assert mix.take(5) == b""


def test_it_does_not_wrap_round():
    mix = Mixdown()
    mix.add(0, 0, pcm(30_000, -30_000))
    mix.add(1, 0, pcm(30_000, -30_000))
    assert mix.take(2) == pcm(32_767, -32_768)


def test_what_comes_too_late_is_left_out():
    mix = Mixdown()
    mix.take(2)
    mix.add(0, 0, pcm(1, 2, 3))
    mix.add(0, 0, pcm(1))
    assert mix.take(4) == pcm(3, 0)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 900), st.integers(0, 900))))
def test_any_pieces_come_out_once(pieces):
    mix, whole = Mixdown(), np.zeros(2000, np.int32)
    for who, at, count in pieces:
        mix.add(who, at, np.ones(count, "<i2").tobytes())
        whole[at : at + count] += 1
    taken = b"".join(mix.take(until) for until in (700, 700, 1999, 2000))
    assert np.array_equal(np.frombuffer(taken, "<i2"), whole)


def test_the_loudest_is_who_speaks():
    mix = Mixdown()
    mix.add(0, 0, tone(100, 4))
    mix.add(1, 2 * FRAME, tone(900, 4))
    assert mix.loudest(0, FRAME) == 0
    assert mix.loudest(2 * FRAME, 4 * FRAME) == 1
    assert mix.loudest(50 * FRAME, 60 * FRAME) is None
    assert Mixdown().loudest(0, 9) is None


def test_a_final_falls_into_runs_of_one_speaker():
    words = [word("we", 0, 1), word("go", 1, 2), word(" ", 2, 2), word("no", 3, 4)]
    runs = split_by_speaker(final("we go no", words), lambda start, end: start // FRAME // 3)
    assert runs == [
        Run(0, "we go", 0, 2 * FRAME, (words[0], words[1])),
        Run(1, "no", 3 * FRAME, 4 * FRAME, (words[3],)),
    ]


def test_without_words_it_is_one_run():
    assert split_by_speaker(final(" we go "), lambda *_: 1) == [Run(1, "we go", 0, 10 * FRAME)]


def test_what_the_mix_says_has_its_speakers():
    timeline, mix = Timeline(), Mixdown()
    for number, name in enumerate(("Anna", "Ben")):
        assert timeline.join(name, Placement()) == number
        mix.add(number, 4 * number * FRAME, tone(100, 4))
    reader = MixReader(timeline, mix)
    assert reader.take(Ack(1)) == []
    [running] = reader.take(Partial(3, 0, 1, "we", " go", 0, 2 * FRAME))
    assert (running.speaker, running.text, running.is_final) == ("Anna", "we go", False)
    [running] = reader.take(Partial(3, 0, 2, "we go", " no", 3 * FRAME, 9 * FRAME))
    assert [each.speaker for each in timeline.running] == ["Ben"]
    said = reader.take(final("we no", [word("we", 0, 1), word("no", 5, 6)]))
    assert [(each.speaker, each.text) for each in said] == [("Anna", "we"), ("Ben", "no")]
    assert timeline.utterances == tuple(said)
    assert timeline.running == ()


def test_a_mix_may_begin_in_the_middle_of_a_meeting():
    origin = 50 * FRAME
    timeline, mix = Timeline(), Mixdown(origin)
    for name in ("Anna", "Ben"):
        timeline.join(name, Placement())
    mix.add(1, origin - FRAME, tone(100, 3))
    assert mix.take(origin + 2 * FRAME) == tone(100, 2)
    reader = MixReader(timeline, mix, first=1)
    [said] = reader.take(final("no", [word("no", 0, 1)]))
    assert (said.speaker, said.start, said.words[0].end) == ("Ben", origin, origin + FRAME)
    [running] = reader.take(Partial(4, 0, 1, "so", "", 90 * FRAME, 91 * FRAME))
    assert (running.speaker, running.start) == ("Ben", origin + 90 * FRAME)


def test_where_nobody_is_heard_it_is_who_spoke_last():
    timeline, mix = Timeline(), Mixdown()
    timeline.join("Anna", Placement())
    timeline.join("Ben", Placement())
    mix.add(1, 0, tone(100, 2))
    reader = MixReader(timeline, mix)
    reader.take(final("one", start=0, end=FRAME))
    [said] = reader.take(final("two", start=80 * FRAME, end=90 * FRAME))
    assert said.speaker == "Ben"
    reader.take(Partial(4, 0, 1, "three", "", 90 * FRAME, 91 * FRAME))
    reader.interrupt()
    assert timeline.running == ()
