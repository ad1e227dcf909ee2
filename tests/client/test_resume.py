from __future__ import annotations

import random

import pytest

from stream_client.resume import ONSET, PRE_ROLL, SETTLED, AudioFormat, SendLog
from stream_protocol.messages import (
    Ack,
    Configure,
    Endpointing,
    Final,
    Flush,
    Flushed,
    Partial,
    Resume,
    SpeechEnded,
    SpeechStarted,
    Start,
    Stop,
    Timings,
)

SPLIT = Start(channels=2, channel_mode="split")


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


def test_goes_back_to_the_last_final():
    log = SendLog(Start(language="en"))
    audio = noise(4000)
    log.append_audio(audio)
    taken(log)
    assert log.receive(final(0, 100, 700))
    assert log.kept_bytes == 4000 - 1400
    again = log.rewind("token")
    assert again == Start(language="en", resume=Resume("token", 700, 1))
    assert taken(log) == [audio[1400:]]
    # The same again, without news.
    assert log.rewind("other").resume == Resume("other", 700, 1)
    assert taken(log) == [audio[1400:]]


def test_with_no_final_it_begins_at_the_beginning():
    log = SendLog(Start())
    log.append_audio(b"abcd")
    log.take(2)
    log.receive(SpeechStarted(0, 0, 0))
    log.receive(Partial(0, 0, 1, "", "x", 0, 1))
    log.receive(Ack(1))
    assert log.rewind("t").resume == Resume("t", 0, 0)
    assert taken(log) == [b"abcd"]


def test_a_flushed_position_counts_like_a_final():
    log = SendLog(Start())
    log.append_audio(bytes(100))
    log.append_control(Flush("a"))
    taken(log)
    log.receive(Flushed(50, "a"))
    assert log.kept_bytes == 0
    assert log.rewind("t").resume.position == 50
    assert taken(log) == []


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
    assert taken(log) == [bytes(100), Flush("b"), Stop()]


def test_a_flush_whose_final_came_but_not_its_answer_comes_first():
    log = SendLog(Start())
    log.append_audio(bytes(100))
    log.append_control(Flush("a"))
    log.append_audio(bytes(100))
    taken(log)
    log.receive(final(0, 0, 60))
    log.rewind("t")
    assert taken(log) == [Flush("a"), bytes(80)]


def test_what_was_configured_becomes_part_of_start():
    log = SendLog(Start(partial_interval_ms=0))
    log.append_audio(bytes(100))
    log.append_control(Configure(language="de"))
    log.append_audio(bytes(100))
    log.append_control(Configure(endpointing=Endpointing(silence_ms=200)))
    log.append_control(Configure(partial_interval_ms=300))
    log.append_audio(bytes(100))
    taken(log)
    log.receive(final(0, 0, 70))
    again = log.rewind("t")
    assert (again.language, again.endpointing.silence_ms) == ("de", 500)
    assert taken(log) == [
        bytes(60),
        Configure(endpointing=Endpointing(silence_ms=200)),
        Configure(partial_interval_ms=300),
        bytes(100),
    ]
    log.receive(final(1, 70, 100))
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
    log.append_audio(bytes(100))
    taken(log)
    assert log.position == 1050
    assert log.rewind("t").resume == Resume("t", 1000, 7)
    taken(log)
    log.receive(final(7, 1000, 1020))
    assert log.rewind("t").resume == Resume("t", 1020, 8)
    assert taken(log) == [bytes(60)]


def test_a_final_beyond_what_was_sent_does_no_harm():
    log = SendLog(Start(sample_rate=44100))
    log.append_audio(bytes(441 * 2 * 3 + 1))
    taken(log)
    log.receive(final(0, 0, 100_000))
    assert log.rewind("t").resume.position == 480
    assert taken(log) == [bytes(1)]


def test_a_position_between_frames_is_rounded_down():
    log = SendLog(Start(sample_rate=44100))
    log.append_audio(bytes(44100 * 2))
    taken(log)
    log.receive(final(0, 0, 1000))
    assert log.rewind("t").resume.position == 960
    assert len(taken(log)[0]) == (44100 - 6 * 441) * 2


def test_not_keeping():
    log = SendLog(Start(), keep=False)
    log.append_audio(bytes(100))
    assert log.take(60) == bytes(60)
    assert log.kept_bytes == 40
    assert not log.can_resume


# --- long silences --------------------------------------------------------------------------------

SECOND = 16_000


def seconds(count):
    return bytes(count * 2 * SECOND)


def test_long_silence_is_given_up():
    log = SendLog(Start(), capacity_seconds=60)
    for second in range(1, 301):
        log.append_audio(seconds(1))
        taken(log, 1 << 20)
        log.receive(Ack(second * SECOND))
        assert not log.is_full
    assert log.kept_bytes == len(seconds(60))
    assert log.rewind("t").resume == Resume("t", 240 * SECOND, 0)


def test_speech_that_waits_for_its_final_is_never_given_up():
    log = SendLog(Start(), capacity_seconds=60)
    log.append_audio(seconds(200))
    taken(log, 1 << 24)
    log.receive(SpeechStarted(0, 0, 20 * SECOND))
    log.receive(Ack(200 * SECOND))
    assert log.is_full
    assert log.rewind("t").resume.position == 20 * SECOND - PRE_ROLL
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
    assert log.kept_bytes == len(seconds(100)) - 2 * (50 * SECOND - SETTLED)


# --- split channels -------------------------------------------------------------------------------


def split_log(count=400):
    log = SendLog(SPLIT)
    log.append_audio(bytes(4 * SECOND * count))
    taken(log, 1 << 24)
    return log


def test_split_goes_back_to_the_channel_that_waits():
    log = split_log()
    log.receive(SpeechStarted(0, 1, 10 * SECOND))
    log.receive(final(1, 2 * SECOND, 30 * SECOND, channel=0))
    assert log.rewind("t").resume == Resume("t", 10 * SECOND - PRE_ROLL, 2)


def test_split_is_not_held_back_by_a_silent_channel():
    log = split_log()
    log.receive(final(0, 2 * SECOND, 30 * SECOND, channel=0))
    assert log.rewind("t").resume.position == 30 * SECOND - ONSET


def test_split_leaves_out_what_a_channel_has_got():
    log = split_log()
    log.receive(SpeechStarted(0, 1, 10 * SECOND))
    log.receive(final(1, 2 * SECOND, 30 * SECOND, channel=0))
    log.rewind("t")
    taken(log, 1 << 24)
    assert not log.receive(SpeechStarted(2, 0, 12 * SECOND))
    assert not log.receive(Partial(2, 0, 1, "", "x", 12 * SECOND, 15 * SECOND))
    assert not log.receive(SpeechEnded(2, 0, 29 * SECOND))
    assert not log.receive(final(2, 12 * SECOND, 30 * SECOND + 100, channel=0))
    assert log.receive(final(3, 10 * SECOND, 20 * SECOND, channel=1))
    assert log.receive(final(4, 31 * SECOND, 35 * SECOND, channel=0))


def test_one_channel_leaves_out_nothing():
    log = SendLog(Start(sample_rate=44100))
    log.append_audio(bytes(44100 * 2))
    taken(log, 1 << 20)
    log.receive(final(0, 0, 1000))
    position = log.rewind("t").resume.position
    assert position < 1000
    assert log.receive(SpeechStarted(1, 0, position))


# --- anything at all ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize(
    "format", [("pcm_s16le", 16000, 1), ("mulaw", 8000, 1), ("pcm_s16le", 44100, 2)]
)
def test_however_it_breaks_every_byte_arrives(format, seed):
    rng = random.Random(seed)
    encoding, rate, channels = format
    start = Start(encoding=encoding, sample_rate=rate, channels=channels)
    audio = noise(rng.randrange(1, 20_000), rng.randrange(99))
    units = AudioFormat.of(start)
    log = SendLog(start)
    arrived, appended, begun = bytearray(), 0, 0
    covered = 0
    while len(arrived) < len(audio):
        action = rng.choice(["append", "append", "take", "take", "take", "final", "break"])
        if action == "append":
            piece = audio[appended : appended + rng.randrange(1, 3000)]
            log.append_audio(piece)
            appended += len(piece)
        elif action == "take":
            data = log.take(rng.randrange(1, 4000))
            # Half of the time it is lost on the way, and the connection with it.
            if data is not None and rng.random() < 0.3:
                action = "break"
            elif data is not None:
                assert audio[begun : begun + len(data)] == data
                arrived[begun:] = data
                begun += len(data)
        elif action == "final":
            heard = units.samples(begun)
            if heard > covered:
                end = rng.randrange(covered, heard + 1)
                log.receive(final(0, covered, end))
                covered = end
        if action == "break":
            resume = log.rewind("t").resume
            begun = units.offset(resume.position)
            assert units.samples(begun) == resume.position <= covered
            # Nothing that a final covers is sent again, but for the rounding.
            assert covered - resume.position < units.unit_samples
    assert bytes(arrived) == audio
