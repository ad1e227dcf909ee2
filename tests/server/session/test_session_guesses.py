"""Finals that are begun in the pause, before it is known to be the end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stream_protocol.messages import (
    Ack,
    Configure,
    Final,
    Flush,
    Flushed,
    Partial,
    SpeechEnded,
    Start,
)
from stream_server.scheduler.request import Dropped, Request
from stream_server.segmenter.segmenter import FRAME
from stream_server.session.effects import Cancel, Promote, Send, Submit
from tests.server.session.stream import POLICY, Stream, decoded, requests, sent

SPECULATIVE = replace(POLICY, speculates=True)


def guess(stream: Stream) -> Request:
    """Speak, and pause until the session takes it for the end."""
    stream.hear(600, 1.0)
    (request,) = requests(stream.hear(200, 0.0), final=False)
    assert request.utterance.steps == 8
    assert request.utterance.draft == ()
    assert len(request.utterance.pcm) == 800 * 16
    return request


def test_the_final_is_there_when_the_pause_was_the_end() -> None:
    stream = Stream(policy=SPECULATIVE)
    request = guess(stream)
    (partial,) = sent(stream.session.receive_reply(decoded(request, "hello")))
    assert isinstance(partial, Partial)
    assert [type(each) for each in sent(stream.hear(200, 0.0))] == [Ack]
    effects = stream.hear(100, 0.0)
    assert [type(each) for each in sent(effects)] == [SpeechEnded, Final]
    (final,) = sent(effects, Final)
    assert isinstance(final, Final)
    assert (final.text, final.end, final.timings.decode_ms) == ("hello", 800 * 16, 2.0)
    assert not [each for each in effects if not isinstance(each, Send)]
    assert stream.session.pending_finals == 0


@pytest.mark.parametrize("is_promoted", [True, False])
def test_a_guess_that_is_being_decoded_becomes_the_final(is_promoted: bool) -> None:
    stream = Stream(policy=SPECULATIVE)
    request = guess(stream)
    effects = stream.hear(300, 0.0)
    assert Promote(0) in effects
    assert not [each for each in effects if isinstance(each, Submit | Cancel)]
    assert stream.session.pending_finals == 1
    reply = decoded(replace(request, is_final=is_promoted), "hello")
    (final,) = sent(stream.session.receive_reply(reply))
    assert isinstance(final, Final)
    assert final.text == "hello"


@pytest.mark.parametrize("is_late", [True, False])
def test_a_guess_that_the_engine_dropped_is_made_again(is_late: bool) -> None:
    stream = Stream(policy=SPECULATIVE)
    request = guess(stream)
    effects = stream.hear(300, 0.0) if is_late else []
    effects += stream.session.receive_reply(Dropped(request, "expired"))
    effects += stream.hear(300, 0.0)
    (final,) = requests(effects, final=True)
    assert len(final.utterance.pcm) == 800 * 16
    assert len(sent(stream.session.receive_reply(decoded(final, "hello")))) == 1


def test_speech_that_goes_on_makes_the_guess_a_partial() -> None:
    stream = Stream(policy=SPECULATIVE)
    first = guess(stream)
    stream.session.receive_reply(decoded(first, "hello", (7, 8)))
    (second,) = requests(stream.hear(600, 1.0), final=False)
    assert second.utterance.draft == (7, 8)
    assert second.utterance.steps == 3
    effects = stream.hear(500, 0.0)
    assert Cancel(0) in effects
    (third,) = requests(effects, final=False)
    assert third.utterance.steps == 8
    assert len(third.utterance.pcm) == 1600 * 16
    effects = stream.session.receive_reply(decoded(third, "hello there"))
    assert stream.session.receive_reply(decoded(second, "late")) == []
    (final,) = sent(effects + stream.hear(100, 0.0), Final)
    assert isinstance(final, Final)
    assert final.text == "hello there"


def test_a_guess_in_another_language_is_not_the_final() -> None:
    stream = Stream(policy=SPECULATIVE)
    stream.session.receive_reply(decoded(guess(stream), "hello"))
    stream.session.receive_message(Configure(language="en"))
    (final,) = requests(stream.hear(300, 0.0), final=True)
    assert final.utterance.language == "en"


def test_a_flush_in_the_pause_takes_the_guess() -> None:
    stream = Stream(policy=SPECULATIVE)
    stream.session.receive_reply(decoded(guess(stream), "hello"))
    effects = stream.session.receive_message(Flush())
    assert [type(each) for each in sent(effects)] == [SpeechEnded, Final, Ack, Flushed]


def test_a_guess_of_other_audio_than_the_final_is_not_it() -> None:
    """A click in the pause, and a flush just where it is taken for the end: the final's audio has a
    pause made up behind it, the guess's has not."""
    stream = Stream(policy=SPECULATIVE)
    stream.hear(600, 1.0)
    effects = stream.session.receive_audio(
        0, np.zeros(10 * FRAME, np.float32), [0.0] * 5 + [1.0] + [0.0] * 4
    )
    (request,) = requests(effects, final=False)
    stream.session.receive_reply(decoded(request, "hello"))
    (final,) = requests(stream.session.receive_message(Flush()), final=True)
    assert len(final.utterance.pcm) == len(request.utterance.pcm) + 6 * FRAME


def test_finals_are_begun_early_also_where_no_partials_are_wanted() -> None:
    stream = Stream(Start(partial_interval_ms=0), SPECULATIVE)
    assert stream.session.receive_reply(decoded(guess(stream), "hello")) == []
    assert len(sent(stream.hear(300, 0.0), Final)) == 1
