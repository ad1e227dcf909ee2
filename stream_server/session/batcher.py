"""Decoding and detection of many sessions in one hop to the executor.

A hop costs a thread's waking and two fights for the interpreter lock, more than the work on a
tenth of a second of audio, and the work itself is cheaper together. So at most one hop is under way
at a time, hops keep a distance, and what arrives meanwhile goes together with the next. A lone
session never waits for company: after a quiet moment the first piece goes at once.

One event loop; shared by all sessions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass

from stream_server.session.intake import Frames, Intake, feed_together

_DISTANCE = 0.02
"""Seconds from the beginning of a hop to that of the next: the length of a frame."""
_MOST_BYTES = 1 << 19
"""Bytes in one hop: 16 s of audio at 16 bits, some milliseconds of work."""
_LONG_BYTES = 1 << 16
"""Bytes of a piece that goes alone, so that nobody waits behind it."""


@dataclass(frozen=True, slots=True)
class _Job:
    intake: Intake
    data: bytes
    result: asyncio.Future[list[Frames]]


class IntakeBatcher:
    """Feeds intakes off the event loop.

    Args:
        executor: Where it runs.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._waiting: deque[_Job] = deque()
        self._is_due = False
        """Whether a hop is under way or has its time set."""
        self._began = float("-inf")

    async def feed(self, intake: Intake, data: bytes) -> list[Frames]:
        """Return what :meth:`Intake.feed` returns; the caller feeds an intake once at a time.

        Raises:
            BadAudio: The bytes are not what was announced.
        """
        loop = asyncio.get_running_loop()
        if len(data) >= _LONG_BYTES:
            return await loop.run_in_executor(self._executor, intake.feed, data)
        job = _Job(intake, data, loop.create_future())
        self._waiting.append(job)
        if not self._is_due:
            self._is_due = True
            self._hop_in_time(loop)
        return await job.result

    def _hop_in_time(self, loop: asyncio.AbstractEventLoop) -> None:
        left = self._began + _DISTANCE - loop.time()
        if left > 0:
            loop.call_later(left, self._hop, loop)
        else:
            self._hop(loop)

    def _hop(self, loop: asyncio.AbstractEventLoop) -> None:
        self._began = loop.time()
        jobs = self._take()
        pieces = [(job.intake, job.data) for job in jobs]
        try:
            hop = loop.run_in_executor(self._executor, feed_together, pieces)
        except RuntimeError as error:  # the executor was shut down; each must still be told
            hop = loop.create_future()
            hop.set_exception(error)
        hop.add_done_callback(lambda hop: self._deliver(loop, jobs, hop))

    def _take(self) -> list[_Job]:
        jobs: list[_Job] = []
        size = 0
        while self._waiting and size < _MOST_BYTES:
            job = self._waiting.popleft()
            if not job.result.done():  # its session ended meanwhile
                jobs.append(job)
                size += len(job.data)
        return jobs

    def _deliver(
        self,
        loop: asyncio.AbstractEventLoop,
        jobs: list[_Job],
        hop: asyncio.Future[list[list[Frames] | Exception]],
    ) -> None:
        broken = None if hop.cancelled() else hop.exception()
        for index, job in enumerate(jobs):
            if job.result.done():
                continue
            if hop.cancelled():
                job.result.cancel()
                continue
            result = broken or hop.result()[index]
            if isinstance(result, BaseException):
                job.result.set_exception(result)
            else:
                job.result.set_result(result)
        self._is_due = bool(self._waiting)
        if self._waiting:
            self._hop_in_time(loop)


__all__ = ["IntakeBatcher"]
