"""Transcript updates and the engine's replies as messages to the client. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stream_protocol.messages import Error, Final, Partial, Timings, Trace, Word
from stream_server.errors import DeadlineExceeded, error_message
from stream_server.recogniser.interface import SAMPLE_RATE, HypothesisWord
from stream_server.scheduler.request import Decoded, Dropped, Failed, Reply
from stream_server.transcript.transcript import TranscriptUpdate


def partial_message(segment: int, channel: int, update: TranscriptUpdate) -> Partial:
    """Return what a running segment says so far."""
    return Partial(
        segment=segment,
        channel=channel,
        revision=update.revision,
        stable=update.stable,
        tentative=update.tentative,
        start=update.start,
        end=update.end,
    )


def final_message(
    channel: int, update: TranscriptUpdate, reply: Decoded, *, with_words: bool
) -> Final:
    """Return what a segment said."""
    hypothesis = reply.hypothesis
    timings = Timings(
        audio_ms=len(reply.request.utterance.pcm) * 1000 / SAMPLE_RATE,
        queue_ms=reply.queue_ms,
        decode_ms=reply.decode_ms,
        steps=hypothesis.step,
    )
    language = hypothesis.language or reply.request.utterance.language
    return _final(reply.request.segment, channel, update, language, timings, with_words)


def trace_messages(channel: int, reply: Reply) -> list[Trace]:
    """Return how a decode went, where it was traced: one message or none."""
    if not isinstance(reply, Decoded) or not reply.canvases:
        return []
    request = reply.request
    return [Trace(request.segment, channel, request.revision, list(reply.canvases))]


def failed_final(
    channel: int, update: TranscriptUpdate, reply: Failed | Dropped, *, with_words: bool
) -> tuple[Error, Final]:
    """Return the error of a segment that could not be decoded, and the final it gets anyway.

    The final moves the client's clock on. Its text is what was promised as stable, mostly nothing.
    """
    if isinstance(reply, Failed):
        cause = error_message(reply.error)
    else:
        cause = error_message(DeadlineExceeded("this segment waited too long to be decoded"))
    # Whatever it is, it is about this segment: the session goes on.
    error = msgspec.structs.replace(
        cause, message=f"segment {reply.request.segment}: {cause.message}", fatal=False
    )
    utterance = reply.request.utterance
    audio_ms = len(utterance.pcm) * 1000 / SAMPLE_RATE
    timings = Timings(audio_ms=audio_ms, queue_ms=0.0, decode_ms=0.0, steps=0)
    number = reply.request.segment
    return error, _final(number, channel, update, utterance.language, timings, with_words)


def spread(words: Sequence[HypothesisWord], start: int, end: int) -> list[Word]:
    """Return words with times on the media clock.

    Times that the model does not know are filled in: words between two known times share what
    lies between them by their length in characters. Times never go backwards and stay between
    ``start`` and ``end``.

    Args:
        words: With times from ``start`` on, where known.
        start: Samples; the segment's first.
        end: Samples; the segment's end.
    """
    spoken = [(word, word.text.strip()) for word in words if word.text.strip()]
    result: list[Word] = []
    clock = start
    for index, (word, text) in enumerate(spoken):
        begin = clock if word.start is None else max(clock, start + word.start)
        if word.end is not None:
            finish = start + word.end
        else:
            finish = begin + _share(spoken[index:], start, begin, end)
        begin = min(begin, end)
        clock = min(max(finish, begin), end)
        result.append(Word(text=text, start=begin, end=clock, confidence=word.confidence))
    return result


def _share(rest: Sequence[tuple[HypothesisWord, str]], start: int, begin: int, end: int) -> int:
    """Samples of the first of ``rest``, from ``begin`` on, whose end is not known."""
    letters = 0
    for index, (word, text) in enumerate(rest):
        if index and word.start is not None:
            end = start + word.start
            break
        letters += len(text)
    return max(0, end - begin) * len(rest[0][1]) // letters


def _final(
    segment: int,
    channel: int,
    update: TranscriptUpdate,
    language: str | None,
    timings: Timings,
    with_words: bool,
) -> Final:
    words = update.words
    return Final(
        segment=segment,
        channel=channel,
        revision=update.revision,
        text=update.text,
        start=update.start,
        end=update.end,
        language=language,
        confidence=sum(word.confidence for word in words) / len(words) if words else 0.0,
        words=spread(words, update.start, update.end) if with_words else None,
        timings=timings,
    )


__all__ = ["failed_final", "final_message", "partial_message", "spread", "trace_messages"]
