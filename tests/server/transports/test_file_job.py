"""A file's segments go through the engine and come back in order."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Sequence

import pytest

from stream_protocol.messages import Limits, Start, Stop
from stream_server.config import SchedulerConfig
from stream_server.errors import BadAudio, InvalidField, Overloaded, RecognitionFailed
from stream_server.recogniser.fake import FAKE_INFO, FakeRecogniser
from stream_server.recogniser.interface import Hypothesis, Row, Utterance
from stream_server.session.effects import Submit
from stream_server.session.intake import Intake
from stream_server.session.session import Session, SessionPolicy
from stream_server.transports.file_job import (
    FileJob,
    FileTranscriber,
    check_language,
    find_segments,
)
from tests.wav import to_wav


async def run(job: FileJob, services):
    transcriber = FileTranscriber(job, services)
    return [segment async for segment in transcriber.segments()], transcriber.position


async def test_segments_come_in_order_with_their_places(make_services, speech) -> None:
    lengths = (0.8, 1.0, 1.2, 0.9, 1.1, 0.7, 1.0)
    segments, position = await run(FileJob("j", speech(*lengths)), make_services())
    assert [segment.number for segment in segments] == list(range(7))
    assert position == 8000 + sum(int(16000 * s) + 16000 for s in lengths)
    end = 0
    for segment in segments:
        assert end <= segment.start < segment.end
        assert all(segment.start <= word.start < word.end <= segment.end for word in segment.words)
        assert "".join(word.text for word in segment.words).strip() == segment.text
        end = segment.end
    assert segments[0].start < 8000 < segments[0].end


async def test_a_file_object_is_read_like_bytes(make_services, speech) -> None:
    data = speech(1.0, 1.0)
    services = make_services()
    assert await run(FileJob("a", io.BytesIO(data)), services) == await run(
        FileJob("b", data), services
    )


async def test_silence_has_no_segments(make_services, speech) -> None:
    segments, position = await run(FileJob("j", speech()), make_services())
    assert (segments, position) == ([], 8000)


def test_segments_are_never_longer_than_the_model_takes(speech) -> None:
    from dataclasses import replace

    info = replace(FAKE_INFO, max_samples=3 * 16000)
    pieces = list(find_segments(speech(10.0), info, 2))
    lengths = [len(segment.pcm) for piece in pieces for segment in piece.segments]
    assert len(lengths) > 2
    assert max(lengths) <= info.max_samples


async def test_what_is_no_audio_is_refused(make_services) -> None:
    with pytest.raises(BadAudio):
        await run(FileJob("j", b"text"), make_services())


def test_a_language_is_checked() -> None:
    check_language(None, FAKE_INFO)
    check_language("en", FAKE_INFO)
    with pytest.raises(InvalidField) as caught:
        check_language("tlh", FAKE_INFO)
    assert caught.value.field == "language"


@pytest.mark.parametrize("left", [0, 17_000])
async def test_a_file_is_decoded_as_its_stream_is(make_services, speech, left: int) -> None:
    """Also where it ends inside a word, and a pause has to be made up."""
    heard: list[tuple[bytes, int, int, str | None]] = []

    class Listening(FakeRecogniser):
        def start(self, utterances: Sequence[Utterance]) -> Sequence[Row]:
            heard.extend((u.pcm.tobytes(), u.seed, u.steps, u.language) for u in utterances)
            return super().start(utterances)

    file = speech(0.8, 1.1)
    pcm = file[44 : len(file) - 2 * left]
    services = make_services(Listening())
    found, _ = await run(FileJob("j", to_wav(pcm)), services)
    assert all(word.end <= found[-1].end for word in found[-1].words)
    policy = SessionPolicy(
        services.info, Limits(1000, 10_000, 60_000, 0), "token", services.recogniser.steps, 3
    )
    start = Start(partial_interval_ms=0)
    session, intake = Session("s", start, policy), Intake(start, 2)
    effects = session.open()
    for frames in [*intake.feed(pcm), *intake.finish()]:
        effects += session.receive_audio(0, frames.pcm, frames.speech, frames.samples)
    effects += session.receive_message(Stop())
    said = [each.request.utterance for each in effects if isinstance(each, Submit)]
    assert len(heard) == 2
    assert heard == [(u.pcm.tobytes(), u.seed, u.steps, u.language) for u in said]


class Broken(FakeRecogniser):
    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        raise RuntimeError("the model broke")


async def test_a_broken_model_is_told(make_services, speech) -> None:
    with pytest.raises(RecognitionFailed):
        await run(FileJob("j", speech(1.0)), make_services(Broken()))


async def test_a_full_engine_is_told(make_services, speech) -> None:
    scheduler = SchedulerConfig(max_queued=1, reserved_finals=0, max_rows=1)
    services = make_services(FakeRecogniser(step_seconds=0.05), scheduler=scheduler)
    with pytest.raises(Overloaded):
        await run(FileJob("j", speech(*[0.6] * 6)), services)


async def test_giving_up_cancels_what_is_in_the_engine(make_services, speech) -> None:
    recogniser = FakeRecogniser(step_seconds=0.02)
    services = make_services(recogniser)
    transcriber = FileTranscriber(FileJob("j", speech(*[0.7] * 8)), services)
    async with contextlib.aclosing(transcriber.segments()) as segments:
        await anext(segments)
    async with asyncio.timeout(5):
        while recogniser.live_rows or services.engine.load().queued:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_giving_up_leaves_the_file_unused(make_services, speech) -> None:
    file = io.BytesIO(speech(*[0.7] * 8))
    services = make_services(FakeRecogniser(step_seconds=0.02))

    async def work() -> None:
        async for _ in FileTranscriber(FileJob("j", file), services).segments():
            pass

    task = asyncio.create_task(work())
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    file.close()


async def test_the_steps_asked_for_are_run(make_services, speech) -> None:
    seen: list[int] = []

    class Counting(FakeRecogniser):
        def start(self, utterances):
            seen.extend(utterance.steps for utterance in utterances)
            return super().start(utterances)

    services = make_services(Counting())
    await run(FileJob("a", speech(1.0), steps=2), services)
    await run(FileJob("b", speech(1.0)), services)
    assert seen == [2, services.recogniser.steps]
