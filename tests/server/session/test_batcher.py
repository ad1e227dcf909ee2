"""Many sessions in one hop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest

from stream_protocol.messages import Start
from stream_server.errors import BadAudio
from stream_server.session.batcher import IntakeBatcher
from stream_server.session.intake import Frames, Intake


def pcm16(samples: int, seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).integers(-3000, 3000, samples)
    return values.astype("<i2").tobytes()


class Hops(Executor):
    """Runs what it is given on a thread when the test says so, and counts."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(2)
        self.gate = threading.Event()
        self.gate.set()
        self.sizes: list[int] = []
        """Pieces of each hop; 0 for a piece that went alone."""

    def submit(self, work, /, *args, **kwargs) -> Future:  # type: ignore[no-untyped-def]
        pieces = args[0] if args and isinstance(args[0], list) else ()
        self.sizes.append(len(pieces))

        def run() -> object:
            if pieces:
                assert self.gate.wait(10)
            return work(*args, **kwargs)

        return self.pool.submit(run)


@pytest.fixture
def hops() -> Iterator[Hops]:
    executor = Hops()
    yield executor
    executor.gate.set()
    executor.pool.shutdown()


def samples(frames: Sequence[Frames]) -> np.ndarray:
    return np.concatenate([each.pcm for each in frames])


async def test_each_gets_its_own_and_what_waits_goes_together(hops: Hops) -> None:
    batcher = IntakeBatcher(hops)
    data = [pcm16(1600, seed) for seed in range(8)]
    hops.gate.clear()
    tasks = [asyncio.create_task(batcher.feed(Intake(Start(), 2), each)) for each in data]
    for _ in range(3):
        await asyncio.sleep(0)
    assert hops.sizes == [1], "the first goes at once, the others wait for it"
    hops.gate.set()
    results = await asyncio.gather(*tasks)
    assert hops.sizes == [1, 7]
    for own, frames in zip(data, results, strict=True):
        expected = np.frombuffer(own, "<i2").astype(np.float32) / 32768
        np.testing.assert_array_equal(samples(frames), expected)


async def test_a_lone_session_does_not_wait(hops: Hops) -> None:
    batcher = IntakeBatcher(hops)
    intake = Intake(Start(), 2)
    for round_ in range(3):
        await batcher.feed(intake, pcm16(640))
        await asyncio.sleep(0.03)
        assert hops.sizes == [1] * (round_ + 1)


async def test_hops_keep_their_distance(hops: Hops) -> None:
    batcher = IntakeBatcher(hops)
    loop = asyncio.get_running_loop()
    began = loop.time()
    intake = Intake(Start(), 2)
    for _ in range(4):
        await batcher.feed(intake, pcm16(320))
    assert loop.time() - began >= 3 * 0.02 * 0.9


async def test_one_with_bad_audio_disturbs_no_other(hops: Hops) -> None:
    batcher = IntakeBatcher(hops)
    bad = np.full(4000, np.nan, "<f4").tobytes()
    good = [batcher.feed(Intake(Start(), 2), pcm16(640)) for _ in range(3)]
    results = await asyncio.gather(
        *good[:2],
        batcher.feed(Intake(Start(encoding="pcm_f32le"), 2), bad),
        good[2],
        return_exceptions=True,
    )
    assert isinstance(results[2], BadAudio)
    for frames in (results[0], results[1], results[3]):
        assert isinstance(frames, list)
        assert len(samples(frames)) == 640


async def test_a_long_piece_goes_alone(hops: Hops) -> None:
    batcher = IntakeBatcher(hops)
    hops.gate.clear()
    short = asyncio.create_task(batcher.feed(Intake(Start(), 2), pcm16(320)))
    await asyncio.sleep(0)
    frames = await batcher.feed(Intake(Start(), 2), pcm16(48_000))
    assert len(samples(frames)) == 48_000
    assert not short.done()
    assert hops.sizes == [1, 0]
    hops.gate.set()
    await short


async def test_a_hop_is_bounded(hops: Hops) -> None:
    batcher = IntakeBatcher(hops)
    hops.gate.clear()
    tasks = [
        asyncio.create_task(batcher.feed(Intake(Start(), 2), pcm16(30_000))) for _ in range(25)
    ]
    await asyncio.sleep(0)
    hops.gate.set()
    await asyncio.gather(*tasks)
    assert hops.sizes[0] == 1
    assert max(hops.sizes) * 60_000 <= (1 << 19) + 60_000
    assert sum(hops.sizes) == 25


async def test_who_left_meanwhile_is_passed_over(hops: Hops) -> None:
    batcher = IntakeBatcher(hops)
    hops.gate.clear()
    tasks = [asyncio.create_task(batcher.feed(Intake(Start(), 2), pcm16(320))) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # on the way
    tasks[2].cancel()  # still waiting
    await asyncio.sleep(0)
    hops.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in results] == [
        True,
        False,
        True,
        False,
    ]
    assert hops.sizes == [1, 2]
    await batcher.feed(Intake(Start(), 2), pcm16(320))  # and it goes on


async def test_an_executor_that_was_shut_down_is_told_to_everyone() -> None:
    executor = ThreadPoolExecutor(1)
    batcher = IntakeBatcher(executor)
    executor.shutdown()
    for _ in range(2):
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError):
                await batcher.feed(Intake(Start(), 2), pcm16(320))
