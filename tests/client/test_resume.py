from __future__ import annotations

import random

import pytest

from stream_client.resume import LEAD, PRE_ROLL, QUIET, AudioFormat, SendLog
from stream_protocol.messages import (
    RESUME_GRID,
    Ack,
    Configure,
    Endpointing,
    Final,
    Flush,
    Flushed,
    Partial,
    Resume,
    ResumeChannel,
    SpeechEnded,
    SpeechStarted,
    Start,
    Stop,
    Timings,
)

SPLIT = Start(channels=2, channel_mode="split")
SECOND = 16_000


def seconds(count):
    return bytes(count * 2 * SECOND)


def sent_log(count, start=None):
    """A log of so many seconds of silence, all of it sent."""
    log = SendLog(start or Start())
    log.append_audio(seconds(count) * log_channels(start))
    taken(log, 1 << 24)
    return log


def log_channels(start):
    return start.channels if start else 1


def at(position, segment, *covered):
    """What a resume message should say."""
    return Resume("t", position, segment, [ResumeChannel(each) for each in covered])


def final(segment, start, end, channel=0):
    return Final(segment, channel, 1, "x", start, end, None, 1.0, None, Timings(1, 1, 1, 1))


def taken(log, size=1000):
    """Everything that the log gives, audio joined."""
    items = []
    while (item := log.take(size)) is not None:
        if isinstance(item, bytes) and items and isinstance(items[-1], bytes):
            items[-1] += item
        else:
            items.append(item)
    return items


def noise(count, seed=0):
    return random.Random(seed).randbytes(count)


@pytest.mark.parametrize(
    ("encoding", "rate", "channels", "unit_bytes", "unit_samples"),
    [
        ("pcm_s16le", 16000, 1, 2, 1),
        ("pcm_s16le", 16000, 2, 4, 1),
        ("mulaw", 8000, 1, 1, 2),
        ("alaw", 8000, 2, 2, 2),
        ("pcm_s16le", 24000, 1, 6, 2),
        ("pcm_f32le", 44100, 1, 441 * 4, 160),
        ("pcm_f32le", 48000, 2, 24, 1),
    ],
)
def test_formats(encoding, rate, channels, unit_bytes, unit_samples):
    format = AudioFormat.of(Start(encoding=encoding, sample_rate=rate, channels=channels))
    assert (format.unit_bytes, format.unit_samples) == (unit_bytes, unit_samples)
    assert format.samples(format.bytes_per_second) == 16000
    assert format.offset(16000) == format.bytes_per_second
    for samples in (0, 1, 159, 160, 12345):
        place = format.offset(samples)
        assert place % unit_bytes == 0
        # Where a stream is resumed, position and offset stand for the same sample exactly.
        assert format.offset(format.samples(place)) == place
        assert 0 <= samples - format.samples(place) < unit_samples


def test_containers_have_no_positions():
    assert AudioFormat.of(Start(encoding="ogg")) is None
    log = SendLog(Start(encoding="webm"))
    log.append_audio(b"abc")
    assert taken(log) == [b"abc"]
    assert (log.position, log.sent_position, log.can_resume, log.kept_bytes) == (0, 0, False, 0)
    with pytest.raises(ValueError, match="no audio"):
        log.rewind("t")


def test_gives_audio_and_control_in_order():
    log = SendLog(Start())
    log.append_control(Configure())
    log.append_audio(b"ab" * 5)
    log.append_control(Flush("1"))
    log.append_control(Flush("2"))
    log.append_audio(b"cd" * 5)
    log.append_control(Stop())
    assert log.position == 10
    assert log.unsent_bytes == 20
    assert taken(log, 3) == [Configure(), b"ab" * 5, Flush("1"), Flush("2"), b"cd" * 5, Stop()]
    assert log.unsent_bytes == 0
    assert log.sent_position == 10


def test_pieces_are_bounded():
    log = SendLog(Start())
    log.append_audio(bytes(25))
    assert [len(log.take(10)) for _ in range(3)] == [10, 10, 5]
    assert log.take(10) is None


def test_goes_back_to_before_the_last_final():
    log = SendLog(Start(language="en"))
    audio = noise(2 * 31 * SECOND)
    log.append_audio(audio)
    taken(log)
    log.receive(final(0, 100, 30 * SECOND + 640))
    first = 30 * SECOND + 640 - LEAD
    assert log.kept_bytes == len(audio) - 2 * first
    assert log.rewind("t") == Start(language="en", resume=at(first, 1, 30 * SECOND + 640))
    assert taken(log) == [audio[2 * first :]]
    # The same again, without news.
    assert log.rewind("t").resume == at(first, 1, 30 * SECOND + 640)
    assert taken(log) == [audio[2 * first :]]


def test_near_the_beginning_all_is_sent_again():
    log = SendLog(Start())
    audio = noise(4000)
    log.append_audio(audio)
    taken(log)
    log.receive(final(0, 100, 700))
    assert log.rewind("t").resume == at(0, 1, 700)
    assert taken(log) == [audio]


@pytest.mark.parametrize("covered", [30 * SECOND + 1, 30 * SECOND + 319])
def test_begins_on_the_grid(covered):
    # The end of the last final of a stream, whose last frame was not whole.
    log = sent_log(31)
    log.receive(final(0, 0, covered))
    assert log.rewind("t").resume == at(10 * SECOND, 1, covered)


def test_speech_that_was_cut_goes_on():
    log = sent_log(31)
    cut = 30 * SECOND
    log.receive(SpeechStarted(0, 0, 20 * SECOND))
    log.receive(SpeechEnded(0, 0, cut))
    log.receive(SpeechStarted(1, 0, cut))
    log.receive(final(0, 20 * SECOND, cut))
    wanted = Resume("t", cut - LEAD, 1, [ResumeChannel(cut, speaking=True)])
    assert log.rewind("t").resume == wanted
    # The next connection breaks before it says so.
    taken(log)
    assert log.rewind("t").resume == wanted
    log.receive(final(1, cut, cut + 3200))
    assert log.rewind("t").resume == at(cut + 3200 - LEAD, 2, cut + 3200)


def test_with_no_final_it_begins_at_the_beginning():
    log = SendLog(Start())
    log.append_audio(b"abcd")
    log.take(2)
    log.receive(SpeechStarted(0, 0, 0))
    log.receive(Partial(0, 0, 1, "", "x", 0, 1))
    log.receive(Ack(1))
    assert log.rewind("t").resume == at(0, 0, 0)
    assert taken(log) == [b"abcd"]


def test_speech_that_begins_where_a_pause_ended_a_segment_does_not_go_on():
    log = sent_log(31)
    end = 30 * SECOND
    log.receive(SpeechStarted(0, 0, 20 * SECOND))
    log.receive(SpeechEnded(0, 0, end - 3200))
    log.receive(final(0, 20 * SECOND, end))
    log.receive(SpeechStarted(1, 0, end))
    assert log.rewind("t").resume == at(end - LEAD, 1, end)


def test_an_answered_flush_does_not_come_again():
    log = SendLog(Start())
    log.append_audio(bytes(100))
    log.append_control(Flush("a"))
    taken(log)
    log.receive(Flushed(50, "a"))
    # What was heard before it may be the beginning of a word.
    assert log.rewind("t").resume == at(0, 0, 0)
    assert taken(log) == [bytes(100)]


def test_an_unanswered_flush_comes_again_at_its_place():
    log = SendLog(Start())
    log.append_audio(bytes(100))
    log.append_control(Flush("a"))
    log.append_audio(bytes(100))
    log.append_control(Flush("b"))
    log.append_control(Stop())
    taken(log)
    log.receive(Flushed(50, "a"))
    log.rewind("t")
    assert taken(log) == [bytes(200), Flush("b"), Stop()]


def test_a_flush_whose_final_came_but_not_its_answer_comes_again():
    log = SendLog(Start())
    log.append_audio(bytes(100))
    log.append_control(Flush("a"))
    log.append_audio(bytes(100))
    taken(log)
    log.receive(final(0, 0, 50))
    log.rewind("t")
    assert taken(log) == [bytes(100), Flush("a"), bytes(100)]


def test_what_was_configured_becomes_part_of_start():
    log = SendLog(Start(partial_interval_ms=0))
    log.append_audio(seconds(1))
    log.append_control(Configure(language="de"))
    log.append_audio(seconds(1))
    log.append_control(Configure(endpointing=Endpointing(silence_ms=200)))
    log.append_control(Configure(partial_interval_ms=300))
    log.append_audio(seconds(40))
    taken(log, 1 << 24)
    log.receive(final(0, 0, LEAD + SECOND))
    again = log.rewind("t")
    assert (again.language, again.endpointing.silence_ms) == ("de", 500)
    assert taken(log, 1 << 24) == [
        seconds(1),
        Configure(endpointing=Endpointing(silence_ms=200)),
        Configure(partial_interval_ms=300),
        seconds(40),
    ]
    log.receive(final(1, LEAD, LEAD + 2 * SECOND))
    again = log.rewind("t")
    assert (again.language, again.endpointing.silence_ms) == ("de", 200)
    assert again.partial_interval_ms == 300


def test_what_was_configured_but_not_sent_is_still_to_be_sent():
    log = SendLog(Start())
    log.append_control(Configure(language="de"))
    assert log.rewind("t").language is None
    assert taken(log) == [Configure(language="de")]


def test_starts_from_a_resume_of_the_callers_own():
    log = SendLog(Start(resume=Resume("old", 1000, 7)))
    log.append_audio(seconds(22))
    taken(log, 1 << 20)
    assert log.position == 22 * SECOND + 1000
    assert log.rewind("t").resume == at(1000, 7, 1000)
    taken(log, 1 << 20)
    end = 1000 + LEAD + 3 * RESUME_GRID
    log.receive(final(7, 1000, end))
    assert log.rewind("t").resume == at(end - LEAD, 8, end)
    assert taken(log, 1 << 20) == [seconds(22)[2 * 3 * RESUME_GRID :]]


def test_starts_from_a_whole_resume_of_the_callers_own():
    place = ResumeChannel(5000, speaking=True)
    log = SendLog(Start(resume=Resume("old", 1000, 7, [place])))
    log.append_audio(seconds(1))
    assert log.rewind("t").resume == Resume("t", 1000, 7, [place])


def test_a_final_beyond_what_was_sent_does_no_harm():
    log = SendLog(Start(sample_rate=44100))
    log.append_audio(bytes(441 * 2 * 5 + 1))
    taken(log)
    log.receive(final(0, 0, 1_000_000))
    assert log.rewind("t").resume.position == 640
    assert taken(log) == [bytes(441 * 2 + 1)]


def test_not_keeping():
    log = SendLog(Start(), keep=False)
    log.append_audio(bytes(100))
    assert log.take(60) == bytes(60)
    assert log.kept_bytes == 40
    assert not log.can_resume


# --- long silences --------------------------------------------------------------------------------


def test_audio_without_speech_is_not_kept():
    log = SendLog(Start())
    for second in range(1, 301):
        log.append_audio(seconds(1))
        taken(log, 1 << 20)
        log.receive(Ack(second * SECOND))
        assert not log.is_full
    assert log.kept_bytes == 2 * (LEAD + QUIET)
    covered = 300 * SECOND - QUIET
    assert log.rewind("t").resume == at(covered - LEAD, 0, covered)
    # What the old server had heard, the new one has not.
    taken(log, 1 << 20)
    log.receive(Ack(covered - LEAD + SECOND))
    assert log.rewind("t").resume == at(covered - LEAD, 0, covered)


def test_speech_that_waits_for_its_final_is_never_given_up():
    log = SendLog(Start(), capacity_seconds=60)
    log.append_audio(seconds(200))
    taken(log, 1 << 24)
    log.receive(SpeechStarted(0, 0, 20 * SECOND))
    log.receive(Ack(200 * SECOND))
    assert log.is_full
    assert log.rewind("t").resume == at(0, 0, 20 * SECOND - PRE_ROLL)
    taken(log, 1 << 24)
    log.receive(final(0, 20 * SECOND, 150 * SECOND))
    assert not log.is_full


def test_what_was_not_acknowledged_is_never_given_up():
    log = SendLog(Start(), capacity_seconds=60)
    log.append_audio(seconds(100))
    taken(log, 1 << 24)
    assert log.is_full
    assert log.kept_bytes == len(seconds(100))
    # Nor what the server may have only just read.
    log.receive(Ack(50 * SECOND))
    assert log.kept_bytes == len(seconds(100)) - 2 * (50 * SECOND - QUIET - LEAD)


# --- split channels -------------------------------------------------------------------------------


def test_split_each_channel_goes_on_where_it_was():
    log = sent_log(100, SPLIT)
    log.receive(SpeechStarted(0, 1, 60 * SECOND))
    log.receive(final(1, 2 * SECOND, 80 * SECOND, channel=0))
    covered = 60 * SECOND - PRE_ROLL
    assert log.rewind("t").resume == at(covered - LEAD, 2, 80 * SECOND, covered)
    # It said so once; now only the finals and what the next server says counts.
    assert log.rewind("t").resume == at(covered - LEAD, 2, 80 * SECOND, covered)


def test_split_is_not_held_back_by_a_silent_channel():
    log = sent_log(400, SPLIT)
    log.receive(final(0, 2 * SECOND, 90 * SECOND, channel=0))
    assert log.kept_bytes == 4 * 400 * SECOND
    log.receive(Ack(100 * SECOND))
    assert log.rewind("t").resume == at(76 * SECOND, 1, 96 * SECOND, 96 * SECOND)


# --- anything at all ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "format", [("pcm_s16le", 16000, 1), ("mulaw", 8000, 1), ("pcm_s16le", 44100, 2)]
)
def test_however_it_breaks_every_byte_arrives(format, seed):
    rng = random.Random(seed)
    encoding, rate, channels = format
    start = Start(encoding=encoding, sample_rate=rate, channels=channels)
    units = AudioFormat.of(start)
    audio = noise(units.bytes_per_second * rng.randrange(1, 40), rng.randrange(99))
    most = units.bytes_per_second * 3
    log = SendLog(start)
    arrived, appended, begun = bytearray(), 0, 0
    covered = 0
    while len(arrived) < len(audio):
        action = rng.choice(["append", "append", "take", "take", "take", "final"])
        if rng.random() < 0.02:
            action = "break"
        elif action == "append":
            piece = audio[appended : appended + rng.randrange(1, most)]
            log.append_audio(piece)
            appended += len(piece)
        elif action == "take":
            data = log.take(rng.randrange(1, most))
            # Now and then it is lost on the way, and the connection with it.
            if data is not None and rng.random() < 0.02:
                action = "break"
            elif data is not None:
                assert audio[begun : begun + len(data)] == data
                arrived[begun:] = data
                begun += len(data)
        elif action == "final":
            heard = units.samples(begun) // RESUME_GRID
            if heard * RESUME_GRID > covered:
                end = rng.randrange(covered // RESUME_GRID, heard + 1) * RESUME_GRID
                log.receive(final(0, covered, end))
                covered = end
        if action == "break":
            resume = log.rewind("t").resume
            begun = units.offset(resume.position)
            assert units.samples(begun) == resume.position == max(0, covered - LEAD)
            assert resume.channels == [ResumeChannel(covered)]
    assert bytes(arrived) == audio
