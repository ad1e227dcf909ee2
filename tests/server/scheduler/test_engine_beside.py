"""Where a step runs beside the engine's thread, little comes between two steps."""

from __future__ import annotations

import threading

import pytest

from stream_server.errors import RecognitionFailed
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import run_to_end
from stream_server.scheduler.request import Decoded, Dropped, Failed, Request
from tests.server.scheduler.gated import (
    BAD,
    PATIENCE,
    Beside,
    Build,
    Inbox,
    final,
    partial,
    utterance,
)


def lasting(stream: str, steps: int) -> Request:
    return Request(stream, 0, 1, True, utterance(steps=steps))


def test_words_are_found_behind_the_launch_of_the_next_step(build: Build) -> None:
    recogniser, inbox = Beside(), Inbox()
    engine = build(recogniser)
    engine.submit(lasting("a", steps=6), inbox)
    recogniser.await_step()
    engine.submit(final("b"), inbox)
    recogniser.gate.set()
    first, second = inbox.wait(2)
    assert engine.drain(PATIENCE)
    assert first.request.stream == "b"
    steps = ["launch 1", "end", *["launch 2", "end"] * 3, "launch 1", "words", "end"]
    assert recogniser.done == [*steps, "launch 1", "end", "words"]
    alone = FakeRecogniser()
    for reply in (first, second):
        assert isinstance(reply, Decoded)
        (wanted,) = run_to_end(alone, alone.start([reply.request.utterance]))
        assert reply.hypothesis == wanted
        assert reply.hypothesis.text
    assert recogniser.live_rows == 0


def test_who_comes_while_a_step_runs_is_in_the_next(build: Build) -> None:
    recogniser, inbox = Beside(), Inbox()
    engine = build(recogniser)
    engine.submit(lasting("a", steps=6), inbox)
    recogniser.await_step()
    for stream in "bcd":
        engine.submit(final(stream), inbox)
    recogniser.gate.set()
    inbox.wait(4)
    assert recogniser.sizes[:2] == [1, 4]


def test_the_last_words_wait_for_no_other_step(build: Build) -> None:
    recogniser, inbox = Beside(), Inbox()
    recogniser.gate.set()
    engine = build(recogniser)
    engine.submit(final("a"), inbox)
    (reply,) = inbox.wait()
    assert isinstance(reply, Decoded)
    assert reply.hypothesis.text
    assert inbox.threads == {"engine"}


def test_who_is_cancelled_while_a_step_runs_hears_nothing_of_it(build: Build) -> None:
    recogniser, inbox = Beside(), Inbox()
    engine = build(recogniser)
    gone = lasting("a", steps=1)
    engine.submit(gone, inbox)
    engine.submit(lasting("b", steps=6), inbox)
    recogniser.await_step()
    engine.cancel("a")
    recogniser.gate.set()
    first, second = inbox.wait(2)
    assert first == Dropped(gone, "cancelled"), "though the step that ran was its last"
    assert isinstance(second, Decoded)
    assert second.request.stream == "b"
    assert recogniser.done.count("words") == 1, "of the other"
    assert engine.drain(PATIENCE)
    assert recogniser.live_rows == 0


def test_a_partial_is_told_before_its_final(build: Build) -> None:
    recogniser, inbox = Beside(), Inbox()
    engine = build(recogniser)
    engine.submit(partial("a"), inbox)
    recogniser.await_step()
    engine.submit(final("a"), inbox)
    recogniser.gate.set()
    first, second = inbox.wait(2)
    assert (first.request.is_final, second.request.is_final) == (False, True)
    assert isinstance(first, Decoded)
    assert isinstance(second, Decoded)


def test_words_that_cannot_be_found_cost_one_request(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    recogniser, inbox = Beside(), Inbox()
    engine = build(recogniser)
    engine.submit(final("bad", seed=BAD), inbox)
    engine.submit(final("b"), inbox)
    recogniser.gate.set()
    replies = {reply.request.stream: reply for reply in inbox.wait(2)}
    assert isinstance(replies["b"], Decoded)
    failed = replies["bad"]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, RecognitionFailed)
    assert "secret" not in str(failed.error)
    assert "the model failed on a request" in caplog.text
    assert engine.is_ready


def test_what_was_decoded_is_told_though_the_engine_closes(build: Build) -> None:
    recogniser, inbox = Beside(), Inbox()
    engine = build(recogniser)
    engine.submit(lasting("a", steps=1), inbox)
    recogniser.await_step()
    threading.Timer(0.02, recogniser.gate.set).start()
    engine.close(PATIENCE)
    (reply,) = inbox.wait()
    assert isinstance(reply, Decoded)
    assert reply.hypothesis.text
