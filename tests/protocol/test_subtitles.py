from __future__ import annotations

import io

import pysubs2
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from stream_protocol.messages import Word
from stream_protocol.subtitles import (
    MAX_CUE,
    MAX_LINE,
    MAX_LINES,
    Cue,
    SubtitleWriter,
    make_cues,
    render,
)

SECOND = 16_000


def words(*timed):
    return [Word(text, int(start * SECOND), int(end * SECOND), 1.0) for text, start, end in timed]


def lines(cues):
    return [cue.lines for cue in cues]


def test_one_short_line():
    cues = make_cues(" good morning ", SECOND, 3 * SECOND)
    assert cues == [Cue(SECOND, 3 * SECOND, ("good morning",))]


@pytest.mark.parametrize("text", ["", "  \n "])
def test_no_text_no_cue(text):
    assert make_cues(text, 0, SECOND) == []


def test_two_lines_of_about_the_same_length():
    [cue] = make_cues("this is a sentence which is too long for one line of text", 0, 4 * SECOND)
    assert cue.lines == ("this is a sentence which is", "too long for one line of text")


def test_words_give_the_times():
    cues = make_cues("hello there", 0, 9 * SECOND, words((" hello", 2, 2.5), (" there", 3, 4)))
    assert cues == [Cue(2 * SECOND, 4 * SECOND, ("hello there",))]


def test_without_words_time_is_spread_over_the_characters():
    text = " ".join(["aaaa"] * 40)  # 199 characters
    cues = make_cues(text, 0, 199 * 1000)
    assert cues[0].start == 0
    assert cues[-1].end == 199 * 1000
    place = 0
    for cue in cues:
        assert cue.start == place * 1000
        place += len(" ".join(cue.lines)) + 1
        assert cue.end == (place - 1) * 1000


def test_a_word_without_a_time_stands_between_its_neighbours():
    known = [*words(("one", 1, 2)), *words(("three", 6, 7))]
    [cue] = make_cues("one two three", 0, 8 * SECOND, known)
    assert cue == Cue(SECOND, 7 * SECOND, ("one two three",))
    # Without the middle: a pause of four seconds, so each stands alone.
    assert len(make_cues("one three", 0, 8 * SECOND, known)) == 2


def test_a_pause_begins_a_new_cue():
    timed = words(("yes", 1, 1.4), ("no", 3, 3.4))
    assert lines(make_cues("yes no", 0, 4 * SECOND, timed)) == [("yes",), ("no",)]


def test_a_sentence_begins_a_new_cue_unless_it_is_very_short():
    text = "So we begin with a sentence. Yes. And then another one"
    assert lines(make_cues(text, 0, 5 * SECOND)) == [
        ("So we begin with a sentence.",),
        ("Yes. And then another one",),
    ]


def test_no_cue_stays_too_long():
    timed = words(*((f"w{i}", i * 0.9, i * 0.9 + 0.8) for i in range(12)))
    cues = make_cues(" ".join(word.text for word in timed), 0, 11 * SECOND, timed)
    assert len(cues) == 2
    assert all(cue.end - cue.start <= MAX_CUE for cue in cues)


def test_wrong_word_times_never_leave_the_segment_or_go_back():
    timed = words(("a", 9, 8), ("b", 2, 1), ("c", 100, 200))
    cues = make_cues("a b c", 5 * SECOND, 10 * SECOND, timed)
    for cue in cues:
        assert 5 * SECOND <= cue.start < cue.end <= 10 * SECOND + 1


def test_a_script_without_spaces_is_cut():
    cues = make_cues("你好" * 60, 0, 12 * SECOND)
    assert "".join("".join(cue.lines) for cue in cues) == "你好" * 60


@given(
    st.text(st.characters(codec="utf-8"), max_size=300),
    st.integers(0, 10**7),
    st.integers(0, 10**6),
    st.lists(st.tuples(st.text(max_size=6), st.integers(0, 10**7), st.integers(0, 10**7))),
)
def test_every_cue_is_sane_and_no_text_is_lost(text, start, length, timed):
    given_words = [Word(*word, 1.0) for word in timed]
    cues = make_cues(text, start, start + length, given_words)
    written = "".join("".join(cue.lines) for cue in cues)
    assert "".join(written.split()) == "".join(text.split())
    previous = start
    for cue in cues:
        assert 1 <= len(cue.lines) <= MAX_LINES
        assert all(0 < len(line) <= MAX_LINE for line in cue.lines)
        assert previous <= cue.start < cue.end
        previous = cue.start


CUES = [
    Cue(0, 20_000, ("Tom & Jerry <b> --> x",)),
    Cue(36_000 * SECOND + 8, 36_001 * SECOND, ("one", "two")),
    Cue(36_002 * SECOND, 36_002 * SECOND + 1, ("short",)),
]


def test_srt_as_another_reader_sees_it():
    read = pysubs2.SSAFile.from_string(render(CUES[1:], "srt"), format_="srt")
    assert [(event.start, event.end) for event in read] == [
        (36_000_000, 36_001_000),
        (36_002_000, 36_002_001),
    ]
    assert [event.plaintext for event in read] == ["one\ntwo", "short"]


def test_srt_to_the_letter():
    assert render(CUES[:1], "srt") == (
        "1\n00:00:00,000 --> 00:00:01,250\nTom & Jerry <b> --> x\n\n"
    )


def test_vtt_as_another_reader_sees_it():
    read = webvtt.from_buffer(io.StringIO(render(CUES, "vtt")))
    assert [(caption.start, caption.end) for caption in read] == [
        ("00:00:00.000", "00:00:01.250"),
        ("10:00:00.000", "10:00:01.000"),
        ("10:00:02.000", "10:00:02.001"),
    ]
    assert read[1].text == "one\ntwo"
    assert "Tom &amp; Jerry &lt;b&gt; --&gt; x" in read[0].raw_text


def test_vtt_read_by_pysubs2_too():
    read = pysubs2.SSAFile.from_string(render(CUES, "vtt"), format_="vtt")
    assert len(read) == 3


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_written_a_piece_at_a_time_it_is_the_same(format):
    writer = SubtitleWriter(format)
    pieces = [writer.header(), *(writer.write([cue]) for cue in CUES), writer.write([])]
    assert "".join(pieces) == render(CUES, format)


def test_srt_says_who_speaks():
    cues = make_cues("good morning", 0, SECOND, speaker="Anna  B.")
    assert render(cues, "srt") == "1\n00:00:00,000 --> 00:00:01,000\nAnna B.: good morning\n\n"


def test_vtt_says_who_speaks():
    text = "this is a sentence which is too long for one line of text"
    cues = make_cues(text, 0, SECOND, speaker="R&D <2>\n--> x")
    written = render(cues, "vtt")
    assert "\n<v R&amp;D &lt;2&gt; --&gt; x>this is" in written
    [caption] = webvtt.from_buffer(io.StringIO(written)).captions
    assert caption.text.replace("\n", " ") == text


def test_vtt_voices_are_read_back():
    cues = [*make_cues("one", 0, SECOND, speaker="Anna"), *make_cues("two", 0, SECOND)]
    captions = webvtt.from_buffer(io.StringIO(render(cues, "vtt"))).captions
    assert [(caption.voice, caption.text) for caption in captions] == [
        ("Anna", "one"),
        (None, "two"),
    ]
