"""Whole streams, whatever happens in them: every word once, everything answered in order."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stream_protocol.messages import (
    Configure,
    Done,
    Endpointing,
    Final,
    Flush,
    Flushed,
    Partial,
    SpeechStarted,
    Start,
    Stop,
)
from stream_server.errors import RecognitionFailed
from stream_server.recogniser.fake import FAKE_INFO, FakeRecogniser
from stream_server.recogniser.interface import (
    Pcm,
    Utterance,
)
from stream_server.scheduler.request import Decoded, Failed, Request
from stream_server.segmenter.segmenter import FRAME
from stream_server.session.effects import Effect, Promote, Submit
from stream_server.session.session import Session, SessionPolicy
from tests.server.session.stream import POLICY, Stream, decoded, requests, sent

steps = st.lists(
    st.one_of(
        st.tuples(st.just("speech"), st.integers(1, 12)),
        st.tuples(st.just("silence"), st.integers(1, 12)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("reply"), st.integers(0, 5)),
        st.tuples(st.just("fail"), st.integers(0, 5)),
    ),
    max_size=30,
)


@settings(max_examples=120, deadline=None)
@given(
    steps=steps,
    interval=st.sampled_from([0, 200]),
    speculates=st.booleans(),
    promotes=st.booleans(),
)
def test_whatever_happens_everything_is_answered_once_and_in_order(
    steps: list[tuple[str, int]], interval: int, speculates: bool, promotes: bool
) -> None:
    stream = Stream(Start(partial_interval_ms=interval), replace(POLICY, speculates=speculates))
    waiting: list[Request] = []
    effects = stream.effects
    flushes = 0

    def note(new: list[Effect]) -> None:
        for effect in new:
            if isinstance(effect, Submit):
                waiting.append(effect.request)
            elif isinstance(effect, Promote) and promotes:  # else the reply is on its way
                places = [n for n, each in enumerate(waiting) if each.segment == effect.segment]
                waiting[places[-1]] = replace(waiting[places[-1]], is_final=True)

    for name, value in steps:
        if name in ("speech", "silence"):
            note(stream.hear(value * 100, 1.0 if name == "speech" else 0.0))
            continue
        new: list[Effect] = []
        if name == "flush":
            flushes += 1
            new = stream.session.receive_message(Flush(id=str(flushes)))
        elif waiting:
            request = waiting.pop(value % len(waiting))
            failed = Failed(request, RecognitionFailed("x"))
            text = "word " * (len(request.utterance.pcm) // 4000)
            reply = decoded(request, text) if name == "reply" else failed
            new = stream.session.receive_reply(reply)
        effects += new
        note(new)
    new = stream.session.receive_message(Stop())
    effects += new
    note(new)
    while waiting:
        new = stream.session.receive_reply(decoded(waiting.pop(), "end"))
        effects += new
        note(new)

    messages = sent(effects)
    finals = [each for each in messages if isinstance(each, Final)]
    started = [each.segment for each in messages if isinstance(each, SpeechStarted)]
    assert [final.segment for final in finals] == started == list(range(len(started)))
    assert [each.id for each in messages if isinstance(each, Flushed)] == [
        str(number) for number in range(1, flushes + 1)
    ]
    assert isinstance(messages[-1], Done)
    assert messages[-1].segments == len(finals)
    for before, after in zip(finals, finals[1:], strict=False):
        assert before.end <= after.start
    for final in finals:
        stable = ""
        for each in messages:
            if isinstance(each, Partial) and each.segment == final.segment:
                assert each.stable.startswith(stable)
                assert messages.index(each) < messages.index(final)
                stable = each.stable


WORD_FRAMES = 15
"""Frames of a word of the fake recogniser."""


def monologue(words: int) -> Pcm:
    """Words that differ, without a pause; each begins and ends softly, for a cut to fall there."""
    noise = np.random.default_rng(words)
    loudness = noise.uniform(0.05, 0.9, (words, WORD_FRAMES)).repeat(FRAME, axis=1)
    loudness[:, : 3 * FRAME] = loudness[:, -2 * FRAME :] = 0.0
    tone = np.sin(np.arange(loudness.size) * 0.3)
    return (loudness.ravel() * tone).astype(np.float32)


def decode(request: Request, *, with_times: bool = True) -> Decoded:
    recogniser = FakeRecogniser()
    rows = recogniser.start([request.utterance])
    (last,) = recogniser.step(rows)
    while not last.is_final:
        (last,) = recogniser.step(rows)
    if not with_times:
        words = tuple(replace(word, start=None, end=None) for word in last.words)
        last = replace(last, words=words)
    return Decoded(request, last, 0.0, 0.0)


@settings(
    max_examples=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes
)
@given(
    interval=st.integers(100, 4000),
    longest=st.integers(2000, 20_000),
    chunk=st.integers(1, 40),
    delay=st.integers(0, 60),
    with_times=st.booleans(),
    change=st.none() | st.tuples(st.integers(0, 2000), st.integers(2000, 20_000)),
)
def test_a_forced_cut_neither_loses_nor_doubles_a_word(
    interval: int,
    longest: int,
    chunk: int,
    delay: int,
    with_times: bool,
    change: tuple[int, int] | None,
) -> None:
    """Speech of 42 s without a pause; replies are ``delay`` frames late."""
    speech = monologue(140)
    silence = np.zeros(50 * FRAME, np.float32)
    pcm = np.concatenate((silence, speech, silence))
    is_speech = [0.0] * 50 + [1.0] * (len(speech) // FRAME) + [0.0] * 50
    policy = SessionPolicy(FAKE_INFO, POLICY.limits, "token", 4, 2)
    endpointing = Endpointing(max_segment_ms=longest)
    start = Start(partial_interval_ms=interval, endpointing=endpointing)
    session = Session("s1", start, policy)
    effects = list(session.open())
    waiting: deque[tuple[int, Request]] = deque()
    for first in range(0, len(is_speech), chunk):
        if change is not None and first <= change[0] < first + chunk:
            session.receive_message(Configure(Endpointing(max_segment_ms=change[1])))
        piece = slice(first * FRAME, (first + chunk) * FRAME)
        new = session.receive_audio(0, pcm[piece], is_speech[first : first + chunk])
        effects += new
        waiting.extend((first + delay, each.request) for each in new if isinstance(each, Submit))
        while waiting and waiting[0][0] <= first:
            reply = decode(waiting.popleft()[1], with_times=with_times)
            effects += session.receive_reply(reply)
    while waiting:
        effects += session.receive_reply(decode(waiting.popleft()[1], with_times=with_times))

    finals = [each for each in sent(effects) if isinstance(each, Final)]
    assert len(finals) >= 3
    whole = decode(Request("", 0, 1, True, Utterance(speech, steps=1)))
    assert " ".join(final.text for final in finals).split() == whole.hypothesis.text.split()
    for final in finals:
        stable = ""
        for each in sent(effects, Partial):
            assert isinstance(each, Partial)
            if each.segment == final.segment:
                assert each.stable.startswith(stable)
                stable = each.stable
        assert final.text.startswith(stable)


def test_words_become_stable_also_in_a_long_segment() -> None:
    """The guard against doubled words must not hold back what no cut can reach."""
    session = Session("s1", Start(partial_interval_ms=500), POLICY)
    session.open()
    pcm = monologue(48)
    stable: list[float] = []
    for first in range(0, len(pcm) // FRAME, 5):
        piece = pcm[first * FRAME : (first + 5) * FRAME]
        for request in requests(session.receive_audio(0, piece, [1.0] * 5), final=False):
            for each in sent(session.receive_reply(decode(request)), Partial):
                assert isinstance(each, Partial)
                stable.append(len(each.stable.split()) * 0.3)
    # 14.4 s, and the cut of a segment of 15 s comes at 10 s at the earliest.
    assert max(stable) == pytest.approx(9.9)
