"""The pure session: what comes in, which effects come out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    Ack,
    Configure,
    Done,
    Endpointing,
    Error,
    Final,
    Flush,
    Flushed,
    Limits,
    Partial,
    Ready,
    Resume,
    ResumeChannel,
    SpeechEnded,
    SpeechStarted,
    Start,
    Stop,
)
from stream_server.errors import BadAudio, InvalidField, RecognitionFailed
from stream_server.recogniser.interface import (
    RecogniserInfo,
)
from stream_server.scheduler.request import Dropped, Failed
from stream_server.segmenter.segmenter import FRAME
from stream_server.session.effects import Cancel, Close, Send, Submit
from stream_server.session.session import SessionPolicy, State
from tests.server.session.stream import INFO, POLICY, Stream, decoded, requests, sent


def test_opening_says_what_the_session_is() -> None:
    (ready,) = sent(Stream().effects)
    assert isinstance(ready, Ready)
    assert (ready.session, ready.resume_token, ready.model) == ("s1", "token", "tiny")


def test_a_word_gives_its_events_in_order() -> None:
    stream = Stream()
    request = stream.word()
    assert stream.session.pending_finals == 1
    effects = stream.session.receive_reply(decoded(request, "hello"))
    kinds = [type(message) for message in sent([*stream.effects, *effects])]
    assert kinds == [Ready, SpeechStarted, Ack, SpeechEnded, Final]
    (final,) = sent(effects, Final)
    assert isinstance(final, Final)
    assert (final.segment, final.text, final.start) == (0, "hello", 0)
    assert final.end == 800 * 16
    assert len(request.utterance.pcm) == final.end - final.start
    assert final.words is None
    assert stream.session.pending_finals == 0


def test_a_minute_of_silence_gives_only_acks() -> None:
    effects = Stream().hear(60_000, 0.0)
    assert [message.samples for message in sent(effects, Ack)] == [16_000 * n for n in range(1, 61)]
    assert len(effects) == 60


def test_partials_come_at_their_interval_one_at_a_time_with_the_last_as_draft() -> None:
    stream = Stream(Start(partial_interval_ms=300))
    (first,) = requests(stream.hear(2000, 1.0), final=False)
    assert first.utterance.steps == 3
    assert first.utterance.draft == ()
    assert len(first.utterance.pcm) == 300 * 16
    (message,) = sent(stream.session.receive_reply(decoded(first, "one", (4, 5))), Partial)
    assert isinstance(message, Partial)
    assert (message.revision, message.tentative, message.end) == (1, "one", 300 * 16)
    (second,) = requests(stream.hear(100, 1.0), final=False)
    assert second.utterance.draft == (4, 5)
    assert second.revision == 2
    assert len(second.utterance.pcm) == 2100 * 16


def test_the_first_partial_comes_sooner_and_until_there_is_something_to_show() -> None:
    stream = Stream(Start(partial_interval_ms=2000))
    (first,) = requests(stream.hear(300, 1.0), final=False)
    assert stream.session.receive_reply(decoded(first, "")) == []
    (second,) = requests(stream.hear(300, 1.0), final=False)
    stream.session.receive_reply(decoded(second, "one"))
    assert requests(stream.hear(1900, 1.0), final=False) == []
    assert len(requests(stream.hear(100, 1.0), final=False)) == 1


def test_a_pause_asks_for_no_partial_of_what_was_decoded_already() -> None:
    stream = Stream(Start(partial_interval_ms=100, endpointing=Endpointing(silence_ms=5000)))
    for request in requests(stream.hear(500, 1.0), final=False):
        stream.session.receive_reply(decoded(request, "one"))
    asked = 0
    for _ in range(30):
        for request in requests(stream.hear(100, 0.0), final=False):
            asked += 1
            stream.session.receive_reply(decoded(request, "one"))
    assert asked <= 3  # what was said since the last, and the tail of 200 ms


def test_no_partials_where_none_are_wanted() -> None:
    stream = Stream(Start(partial_interval_ms=0))
    assert requests(stream.hear(5000, 1.0), final=False) == []


def test_a_partial_without_words_is_not_shown_and_a_dropped_one_is_asked_again() -> None:
    stream = Stream()
    (first,) = requests(stream.hear(600, 1.0), final=False)
    assert stream.session.receive_reply(Dropped(first, "expired")) == []
    (second,) = requests(stream.hear(600, 1.0), final=False)
    assert stream.session.receive_reply(decoded(second, "")) == []
    (third,) = requests(stream.hear(600, 1.0), final=False)
    failed = Failed(third, RecognitionFailed("x"))
    assert stream.session.receive_reply(failed) == []
    (fourth,) = requests(stream.hear(600, 1.0), final=False)
    (message,) = sent(stream.session.receive_reply(decoded(fourth, "one")))
    assert isinstance(message, Partial)
    assert message.revision == 1


def test_the_final_takes_the_place_of_a_running_partial() -> None:
    stream = Stream()
    (running,) = requests(stream.hear(600, 1.0), final=False)
    effects = stream.hear(600, 0.0)
    cancel = effects.index(Cancel(0))
    assert isinstance(effects[cancel + 1], Submit)
    (final,) = requests(effects, final=True)
    assert final.revision == running.revision + 1
    assert final.utterance.draft == ()
    assert final.utterance.steps == 8
    stream.session.receive_reply(decoded(final, "one"))
    assert stream.session.receive_reply(decoded(running, "late")) == []


def test_finals_go_out_in_the_order_of_segments() -> None:
    stream = Stream()
    first, second, third = stream.word(), stream.word(), stream.word()
    assert stream.session.receive_reply(decoded(third, "three")) == []
    assert stream.session.receive_reply(decoded(second, "two")) == []
    effects = stream.session.receive_reply(decoded(first, "one"))
    assert [(m.segment, m.text) for m in sent(effects, Final)] == [
        (0, "one"),
        (1, "two"),
        (2, "three"),
    ]


def test_a_segment_that_failed_gets_an_error_and_an_empty_final() -> None:
    stream = Stream()
    request = stream.word()
    error, final = sent(stream.session.receive_reply(Failed(request, RecognitionFailed("x"))))
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == ("recognition_failed", False)
    assert isinstance(final, Final)
    assert (final.text, final.end) == ("", 800 * 16)
    assert stream.session.state is State.STREAMING


def test_a_failed_final_keeps_text_that_was_promised_as_stable() -> None:
    stream = Stream(Start(partial_interval_ms=100))
    for _ in range(2):
        (request,) = requests(stream.hear(200, 1.0), final=False)
        stream.session.receive_reply(decoded(request, "one two"))
    (request,) = requests(stream.hear(700, 0.0), final=True)
    (final,) = sent(stream.session.receive_reply(Failed(request, RecognitionFailed("x"))), Final)
    assert isinstance(final, Final)
    assert final.text == "one"


def test_flush_without_speech_is_answered_at_once_and_each_time() -> None:
    stream = Stream()
    stream.hear(500, 0.0)
    for name in ("a", "b"):
        effects = stream.session.receive_message(Flush(id=name))
        assert sent(effects) == [Ack(8000), Flushed(8000, name)]


def test_flush_waits_for_every_final_that_was_due_and_for_no_other() -> None:
    stream = Stream()
    first = stream.word()
    stream.hear(400, 1.0)
    effects = stream.session.receive_message(Flush(id="x"))
    (second,) = requests(effects, final=True)
    position = stream.session.position
    assert sent(stream.session.receive_message(Flush(id="y")), Flushed) == []
    third = stream.word()
    assert stream.session.pending_flushes == 2
    assert sent(stream.session.receive_reply(decoded(second, "two"))) == []
    kinds = sent(stream.session.receive_reply(decoded(first, "one")))
    assert [type(each) for each in kinds] == [Final, Final, Flushed, Flushed]
    assert kinds[2:] == [Flushed(position, "x"), Flushed(position, "y")]
    assert len(sent(stream.session.receive_reply(decoded(third, "three")))) == 1


def test_stop_sends_what_is_left_then_done_then_closes() -> None:
    stream = Stream()
    stream.hear(500, 1.0)
    tail = np.full(FRAME, 1.0, np.float32)
    stream.session.receive_audio(0, tail, [1.0], samples=100)
    effects = stream.session.receive_message(Stop())
    (request,) = requests(effects, final=True)
    # The pause after it has not been heard: it is made up.
    assert len(request.utterance.pcm) == 8000 + FRAME + 3200
    assert stream.session.state is State.STOPPING
    last = stream.session.receive_reply(decoded(request, "one"))
    final, done = sent(last)
    assert isinstance(final, Final)
    assert final.end == 8100  # what was received, not what a frame was filled up with
    assert done == Done(samples=8100, segments=1)
    assert last[-1] == Close(1000, "done")
    assert stream.session.is_done


def test_stop_without_any_audio() -> None:
    effects = Stream().session.receive_message(Stop())
    assert sent(effects) == [Ack(0), Done(0, 0)]
    assert effects[-1] == Close(1000, "done")


@pytest.mark.parametrize("late", [Flush(), Configure(), Stop()])
def test_nothing_may_come_after_stop(late: Flush | Configure | Stop) -> None:
    stream = Stream()
    stream.word()
    stream.session.receive_message(Stop())
    with pytest.raises(RemoteProtocolError, match="while stopping") as caught:
        stream.session.receive_message(late)
    assert caught.value.code == "wrong_state"
    with pytest.raises(RemoteProtocolError, match="`audio` may not be sent while stopping"):
        stream.hear(100, 0.0)


def test_configure_changes_what_follows() -> None:
    stream = Stream(Start(partial_interval_ms=0))
    message = Configure(Endpointing(silence_ms=200), language="en", partial_interval_ms=200)
    assert stream.session.receive_message(message) == []
    (partial,) = requests(stream.hear(600, 1.0), final=False)
    assert partial.utterance.language == "en"
    assert len(requests(stream.hear(300, 0.0), final=True)) == 1
    with pytest.raises(InvalidField):
        stream.session.receive_message(Configure(Endpointing(silence_ms=1)))


def test_no_utterance_is_longer_than_the_model_takes() -> None:
    short = RecogniserInfo("tiny", ("en",), 3 * 16_000, 8, 8)
    policy = SessionPolicy(short, POLICY.limits, "token", 8, 3)
    stream = Stream(Start(endpointing=Endpointing(max_segment_ms=30_000)), policy)
    stream.hear(20_000, 1.0)
    stream.session.receive_message(Configure(Endpointing(max_segment_ms=30_000)))
    stream.hear(20_000, 1.0)
    every = requests(stream.effects, final=True) + requests(stream.effects, final=False)
    assert len(every) > 12
    assert max(len(request.utterance.pcm) for request in every) <= 3 * 16_000


def test_a_resumed_stream_goes_on_with_clock_and_numbers() -> None:
    stream = Stream(Start(resume=Resume(token="t", position=1_000_000, segment=41)))
    request = stream.word()
    assert request.segment == 41
    (final,) = sent(stream.session.receive_reply(decoded(request, "one")), Final)
    assert isinstance(final, Final)
    assert (final.segment, final.start) == (41, 1_000_000)
    effects = stream.session.receive_message(Stop())
    assert sent(effects, Done) == [Done(1_000_000 + 1200 * 16, 1)]


def test_what_finals_covered_is_heard_but_not_transcribed() -> None:
    place = ResumeChannel(1_000_000 + 600 * 16)
    stream = Stream(Start(resume=Resume("t", 1_000_000, 41, [place])))
    assert sent(stream.hear(500, 1.0)) == []
    request = stream.word()
    (final,) = sent(stream.session.receive_reply(decoded(request, "one")), Final)
    assert isinstance(final, Final)
    assert (final.segment, final.start) == (41, place.covered)
    assert final.end == 1_000_000 + 1300 * 16  # the tail is 200 ms
    effects = stream.session.receive_message(Stop())
    assert sent(effects, Done) == [Done(1_000_000 + 1700 * 16, 1)]


def test_speech_that_was_cut_goes_on_where_it_was_cut() -> None:
    cut = 1_000_000 + 600 * 16
    stream = Stream(Start(resume=Resume("t", 1_000_000, 41, [ResumeChannel(cut, speaking=True)])))
    stream.hear(700, 0.0)
    assert sent(stream.effects, SpeechStarted) == [SpeechStarted(41, 0, cut)]
    stream.hear(100, 1.0)
    (request,) = requests(stream.hear(600, 0.0), final=True)
    assert len(request.utterance.pcm) == 400 * 16


def test_a_channel_that_nobody_resumed_begins_where_the_audio_does() -> None:
    resume = Resume("t", 1_000_000, 41, [ResumeChannel(1_000_000 + 3200)])
    stream = Stream(Start(encoding="ogg", channel_mode="split", resume=resume))
    stream.hear(600, 1.0, channel=0)
    stream.hear(600, 1.0, channel=1)
    begun = sent(stream.effects, SpeechStarted)
    assert begun == [SpeechStarted(41, 0, 1_003_200), SpeechStarted(42, 1, 1_000_000)]


def test_the_final_of_cut_speech_comes_after_the_start_of_what_follows() -> None:
    stream = Stream(Start(endpointing=Endpointing(max_segment_ms=2000)))
    effects = stream.hear(2000, 1.0)
    kinds = [type(each.message if isinstance(each, Send) else each) for each in effects]
    begins = [index for index, kind in enumerate(kinds) if kind is SpeechStarted]
    (final,) = [
        index
        for index, effect in enumerate(effects)
        if isinstance(effect, Submit) and effect.request.is_final
    ]
    assert len(begins) == 2
    assert begins[1] < final


def test_audio_heard_again_does_not_count_for_the_limit_of_a_session() -> None:
    limits = replace_limit(POLICY, 1000)
    stream = Stream(Start(resume=Resume("t", 0, 0, [ResumeChannel(2000 * 16)])), limits)
    assert sent(stream.hear(2900, 0.0), Error) == []
    assert sent(stream.hear(100, 0.0), Error)


def replace_limit(policy: SessionPolicy, milliseconds: int) -> SessionPolicy:
    return replace(policy, limits=Limits(1000, 10_000, 60_000, milliseconds))


def test_channels_are_apart_but_share_the_numbers() -> None:
    stream = Stream(Start(channels=2, channel_mode="split"))
    for _ in range(6):
        stream.hear(100, 1.0, channel=0)
        stream.hear(100, 1.0, channel=1)
    left = requests(stream.hear(600, 0.0, channel=0), final=True)
    assert stream.session.position == 600 * 16
    right = requests(stream.hear(600, 0.0, channel=1), final=True)
    assert [left[0].segment, right[0].segment] == [0, 1]
    (final,) = sent(stream.session.receive_reply(decoded(right[0], "right")), Final)
    assert isinstance(final, Final)
    assert (final.channel, final.segment, final.text) == (1, 1, "right")


def test_the_audio_quota_ends_the_session_after_its_finals() -> None:
    policy = SessionPolicy(INFO, Limits(1000, 10_000, 60_000, 2000), "token", 8, 3)
    stream = Stream(policy=policy)
    stream.hear(1900, 1.0)
    (request,) = requests(stream.hear(100, 1.0), final=True)
    assert stream.session.is_failing
    final, error = sent(stream.session.receive_reply(decoded(request, "one")))
    assert isinstance(final, Final)
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == ("limit", True)
    assert stream.session.is_done


def test_an_error_in_the_audio_waits_for_the_finals_before_it() -> None:
    stream = Stream()
    stream.hear(600, 1.0)
    (request,) = requests(stream.session.fail(BadAudio("broken")), final=True)
    assert stream.session.fail(BadAudio("again")) == []
    effects = stream.session.receive_reply(decoded(request, "one"))
    final, error = sent(effects)
    assert isinstance(final, Final)
    assert isinstance(error, Error)
    assert (error.code, error.fatal, error.message) == ("bad_audio", True, "broken")
    assert effects[-1] == Close(1007, "bad_audio")


def test_replies_to_nobody_change_nothing() -> None:
    stream = Stream()
    request = stream.word()
    stream.session.receive_reply(decoded(request, "one"))
    assert stream.session.receive_reply(decoded(request, "again")) == []


def test_opening_twice_is_a_defect() -> None:
    stream = Stream()
    with pytest.raises(RuntimeError):
        stream.session.open()
