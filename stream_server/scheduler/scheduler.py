"""Decides, between two denoising steps, which requests share the next one.

Pure: no asyncio, no torch, no clock (``now`` is an argument, seconds). The scheduler knows keys,
revisions, deadlines and what turns take; it knows nothing of sound, tensors, threads or clients.

The rules:

* Every accepted request gets exactly one outcome.
* A newer partial replaces an older one that still waits; a final replaces any that waits, and a
  partial that comes after its final, or still runs when its final is done, is dropped.
* Finals go before partials, the earliest due first. While finals wait and partials fill the rows,
  a partial is evicted: see :meth:`Scheduler._evict`.
* What nobody waits for shares a turn with finals as far as ``sharing`` lets it; else it is paused.
* A segment has at most one partial in the rows, so its revisions come in order.
* A partial that turns out to have been of the whole segment can be made its final on the way.
* The queue is bounded. Partials are refused first; the reserve is for finals.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from stream_server.config import SchedulerConfig
from stream_server.errors import DeadlineExceeded, Overloaded, ServiceError
from stream_server.recogniser.interface import SAMPLE_RATE, Hypothesis
from stream_server.scheduler.costs import CostMeter
from stream_server.scheduler.request import (
    Decoded,
    Dropped,
    DropReason,
    Failed,
    Reply,
    Request,
    RequestKey,
)
from stream_server.scheduler.sharing import Sharing

FINAL_PATIENCE = 5.0
"""Seconds after which a final without a deadline counts as due.

It only orders: live finals go before those of a file job that set itself a later deadline, and
that job is still not starved, because its deadline stands still while theirs move on.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The reply to one accepted request."""

    number: int
    """What :meth:`Scheduler.submit` gave the request."""
    reply: Reply


@dataclass(frozen=True, slots=True)
class Submission:
    """A request was accepted."""

    number: int
    """Names the request from now on; counts up from 0."""
    dropped: tuple[Outcome, ...]
    """What had to give way; the request itself where it came too late to be of use."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A request gets a row."""

    number: int
    request: Request


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do at this step boundary, in this order."""

    release: tuple[int, ...]
    """Numbers whose rows must be forgotten; an evicted one may be admitted again later."""
    admit: tuple[Admission, ...]
    """Requests that get a row, the most urgent first."""
    step: tuple[int, ...]
    """Numbers of the rows of the next step, the admitted among them; other rows are paused."""
    dropped: tuple[Outcome, ...]
    """Cancelled, replaced and expired requests."""


@dataclass(slots=True, eq=False)
class _Job:
    """A request between its submission and its outcome."""

    number: int
    request: Request
    arrived: float
    deadline: float | None
    due: float
    begun: float = 0.0
    steps: int = 0
    canvases: tuple[str, ...] = ()
    leave: DropReason | None = None
    """Why a row must be given up at the next boundary."""

    @property
    def seconds(self) -> float:
        """Of its audio."""
        return len(self.request.utterance.pcm) / SAMPLE_RATE

    def outcome(self, reason: DropReason) -> Outcome:
        return Outcome(self.number, Dropped(self.request, reason))


class Scheduler:
    """Queue and rows of one engine.

    Args:
        config: bounds and deadlines; its ``max_rows`` is not read here.
        max_rows: utterances in one denoising step, at least 1.
        costs: what turns take, kept current here; none lets everything share every turn.
    """

    def __init__(
        self, config: SchedulerConfig, max_rows: int, costs: CostMeter | None = None
    ) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows={max_rows} is not at least 1")
        self._config = config
        self._max_rows = max_rows
        self._sharing = Sharing(config.busy_share, max_rows, costs)
        self._next_number = 0
        self._finals: dict[int, _Job] = {}
        self._partials: dict[RequestKey, _Job] = {}
        self._rows: dict[int, _Job] = {}

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._finals) + len(self._partials)

    @property
    def running(self) -> int:
        """Rows in use."""
        return len(self._rows)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self._finals or self._partials or self._rows)

    @property
    def urgent_work(self) -> float:
        """Seconds of the engine that finals ever took, if its turns had been full."""
        return self._sharing.load.total

    @property
    def oldest(self) -> float | None:
        """When what waits longest came; none where nothing waits."""
        return min((job.arrived for job in self._queue()), default=None)

    def pause(self, now: float) -> float | None:
        """Return how many seconds nothing is to be done; none where nothing waits or runs."""
        if self.is_idle:
            return None
        if self._rows or any(job.request.is_urgent for job in self._queue()):
            return 0.0
        return max(0.0, self._sharing.free_at - now)

    def submit(self, request: Request, now: float) -> Submission:
        """Take a request into the queue.

        Raises:
            Overloaded: the queue is full; the scheduler is as it was before.
        """
        job = self._new_job(request, now)
        dropped: list[Outcome] = []
        if not request.is_final and self._is_outdated(request):
            # Not an error of the caller: the final may have overtaken it on the way here.
            self._next_number += 1
            return Submission(job.number, (job.outcome("replaced"),))
        older = self._partials.pop(request.key, None)
        if older is not None:
            dropped.append(older.outcome("replaced"))
        else:
            dropped.extend(self._make_room(request.is_final))
        self._next_number += 1
        if request.is_final:
            self._finals[job.number] = job
        else:
            self._partials[request.key] = job
        return Submission(job.number, tuple(dropped))

    def cancel(self, stream: str, segment: int | None = None) -> list[Outcome]:
        """Drop what waits of a stream (or of one segment of it).

        Rows that run leave at the next boundary: :meth:`schedule` reports them.
        """

        def is_meant(job: _Job) -> bool:
            request = job.request
            return request.stream == stream and segment in (None, request.segment)

        for job in self._rows.values():
            if is_meant(job):
                job.leave = "cancelled"
        jobs = [job for job in self._queue() if is_meant(job)]
        for job in jobs:
            self._unqueue(job)
        return [job.outcome("cancelled") for job in jobs]

    def promote(self, stream: str, segment: int, now: float) -> tuple[int, Request] | None:
        """Make the newest partial of a segment its final, where it waits or how far it is.

        Returns:
            Its number and the request that its reply will be to; none where there is none.
        """
        key = (stream, segment)
        job = self._partials.pop(key, None)
        if job is not None:
            self._finals[job.number] = job
        else:
            mine = (job for job in self._rows.values() if job.request.key == key)
            job = next((job for job in mine if not job.request.is_final and not job.leave), None)
        if job is None:
            return None
        job.request = replace(job.request, is_final=True)
        job.deadline, job.due = None, now + FINAL_PATIENCE
        return job.number, job.request

    def schedule(self, now: float) -> Plan:
        """Decide the next step."""
        dropped = self._expire(now)
        release, left = self._collect_leavers()
        dropped += left
        urgent = self._eligible(is_urgent=True)
        finals = sum(job.request.is_final for job in urgent)
        evicted, lost = self._evict(finals - (self._max_rows - len(self._rows)))
        release += evicted
        dropped += lost
        rest = [job for job in self._rows.values() if not job.request.is_urgent]
        running = [job for job in self._rows.values() if job.request.is_urgent]
        admit = self._admit(urgent, now)
        self._sharing.begin(
            now,
            (job.request.stream for job in running),
            ((job.request.stream, job.seconds) for job in admit),
        )
        rest = [job for job in rest if self._sharing.takes()]
        waiting = self._eligible(is_urgent=False)
        more = self._admit((job for job in waiting if self._sharing.takes(job.seconds)), now)
        admit += more
        step = sorted(job.number for job in (*running, *rest, *admit))
        admissions = tuple(Admission(job.number, job.request) for job in admit)
        return Plan(tuple(release), admissions, tuple(step), tuple(dropped))

    def complete(
        self,
        hypotheses: Mapping[int, Hypothesis],
        failures: Mapping[int, ServiceError],
        now: float,
    ) -> list[Outcome]:
        """Take the results of a step; numbers that left meanwhile are passed over.

        Args:
            hypotheses: by number, of the rows that went well.
            failures: by number, of the rows that are lost.
            now: seconds.
        """
        self._sharing.end(now)
        ended: list[tuple[_Job, Reply]] = []
        for number, error in failures.items():
            job = self._rows.pop(number, None)
            if job is not None:
                ended.append((job, Failed(job.request, error)))
        for number, hypothesis in hypotheses.items():
            job = self._rows.get(number)
            if job is not None:
                job.steps = hypothesis.step
                if hypothesis.canvas is not None:
                    job.canvases += (hypothesis.canvas,)
                if hypothesis.is_final:
                    del self._rows[number]
                    ended.append((job, _decoded(job, hypothesis, now)))
        # A partial that ended in the same step as its final must be heard before it.
        ended.sort(key=lambda pair: pair[0].request.is_final)
        for job, _ in ended:
            self._end_partials_of(job.request)
        return [
            job.outcome(job.leave) if job.leave else Outcome(job.number, reply)
            for job, reply in ended
        ]

    # --- the queue --------------------------------------------------------------------------

    def _queue(self) -> list[_Job]:
        return [*self._finals.values(), *self._partials.values()]

    def _new_job(self, request: Request, now: float) -> _Job:
        deadline = request.deadline
        if deadline is None and not request.is_final:
            deadline = now + self._config.partial_deadline_ms / 1000
        due = now + FINAL_PATIENCE if deadline is None else deadline
        return _Job(self._next_number, request, arrived=now, deadline=deadline, due=due)

    def _unqueue(self, job: _Job) -> None:
        if job.request.is_final:
            del self._finals[job.number]
        else:
            del self._partials[job.request.key]

    def _is_outdated(self, request: Request) -> bool:
        """Whether a partial came after its final, or after a later partial."""
        key = request.key
        waiting = self._partials.get(key)
        if waiting is not None and waiting.request.revision > request.revision:
            return True
        others = (job.request for job in (*self._finals.values(), *self._rows.values()))
        return any(
            other.key == key and (other.is_final or other.revision > request.revision)
            for other in others
        )

    def _make_room(self, is_final: bool) -> list[Outcome]:
        """Refuse a request that is over the bound, or drop the partial due first for a final."""
        bound = self._config.max_queued + (self._config.reserved_finals if is_final else 0)
        if self.queued < bound:
            return []
        if is_final and self._partials:
            oldest = min(self._partials.values(), key=_urgency)
            self._unqueue(oldest)
            return [oldest.outcome("expired")]
        raise Overloaded(f"{self.queued} requests wait already; try again later, or another server")

    def _expire(self, now: float) -> list[Outcome]:
        outcomes = []
        late = [job for job in self._queue() if job.deadline is not None and job.deadline <= now]
        for job in late:
            self._unqueue(job)
            if job.request.is_final:
                waited = f"{now - job.arrived:.1f} s"
                error = DeadlineExceeded(f"the server did not begin this within {waited}")
                outcomes.append(Outcome(job.number, Failed(job.request, error)))
                self._end_partials_of(job.request)
            else:
                outcomes.append(job.outcome("expired"))
        return outcomes

    # --- the rows ---------------------------------------------------------------------------

    def _collect_leavers(self) -> tuple[list[int], list[Outcome]]:
        leavers = [job for job in self._rows.values() if job.leave is not None]
        for job in leavers:
            del self._rows[job.number]
        outcomes = [job.outcome(job.leave) for job in leavers if job.leave is not None]
        return [job.number for job in leavers], outcomes

    def _evict(self, count: int) -> tuple[list[int], list[Outcome]]:
        """Take ``count`` rows from partials for finals that wait.

        Eviction, not reservation: rows kept free for finals would stand empty most of the time
        (and with one row there is none to keep), while a final meets full rows only under load,
        and then the partial can be done again. What is lost is the least: partials whose final
        waits already go first, then those with the fewest steps behind them. An evicted partial
        waits again with its old deadline, unless a newer one or its final made it useless.
        """
        partials = [job for job in self._rows.values() if not job.request.is_final]
        waiting = {job.request.key for job in self._finals.values()}

        def loss(job: _Job) -> tuple[bool, int, int]:
            return (job.request.key not in waiting, job.steps, -job.number)

        victims = heapq.nsmallest(max(count, 0), partials, key=loss)
        outcomes = []
        for job in victims:
            del self._rows[job.number]
            if job.request.key in self._partials or job.request.key in waiting:
                outcomes.append(job.outcome("replaced"))
            elif self.queued >= self._config.max_queued:
                outcomes.append(job.outcome("expired"))
            else:
                job.steps = 0
                self._partials[job.request.key] = job
        return [job.number for job in victims], outcomes

    def _eligible(self, *, is_urgent: bool) -> list[_Job]:
        """Return what waits and may have a row, the first to get one first."""
        running = {job.request.key for job in self._rows.values()}
        waiting = (
            job
            for job in self._queue()
            if job.request.is_urgent is is_urgent
            and (job.request.is_final or job.request.key not in running)
        )
        return heapq.nsmallest(
            self._max_rows, waiting, key=lambda job: (not job.request.is_final, *_urgency(job))
        )

    def _admit(self, jobs: Iterable[_Job], now: float) -> list[_Job]:
        admitted: list[_Job] = []
        for job in itertools.islice(jobs, self._max_rows - len(self._rows)):
            self._unqueue(job)
            job.begun = now
            self._rows[job.number] = job
            admitted.append(job)
        return admitted

    def _end_partials_of(self, request: Request) -> None:
        """A final has its outcome: partials of it that still run would only come too late."""
        if not request.is_final:
            return
        for job in self._rows.values():
            is_partial = job.request.key == request.key and not job.request.is_final
            if is_partial and job.leave is None:
                job.leave = "replaced"


def _decoded(job: _Job, hypothesis: Hypothesis, now: float) -> Decoded:
    queue_ms = 1000 * (job.begun - job.arrived)
    decode_ms = 1000 * (now - job.begun)
    return Decoded(job.request, hypothesis, queue_ms, decode_ms, job.canvases)


def _urgency(job: _Job) -> tuple[float, int]:
    return (job.due, job.number)


__all__ = ["FINAL_PATIENCE", "Admission", "Outcome", "Plan", "Scheduler", "Submission"]
