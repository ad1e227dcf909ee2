"""The one thread that owns the model: ``schedule -> start -> step -> complete``, over and over.

Where a step runs beside this thread, little comes between two steps: which rows are finished, and
who shares the next. Words of those that are finished are found and told while the next one runs.

The engine is the only caller of the recogniser, and the recogniser is called on no other thread.
It is woken by an event, never by sleeping, and it knows nothing of sessions or text.

What it promises: every request it took gets exactly one reply, on the engine's thread, outside of
locks; a recogniser that raises costs no more than the requests it cannot decode; if the engine
itself breaks, every waiter is told and :attr:`Engine.is_ready` is false. The one exception to
"on the engine's thread": where that thread hangs in the recogniser, or was never started,
:meth:`Engine.close` itself fails what is left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import structlog

from stream_server.config import SchedulerConfig
from stream_server.errors import Draining, ModelError, RecognitionFailed, ServiceError, wire_error
from stream_server.metrics import Metrics
from stream_server.recogniser.interface import SAMPLE_RATE, Recogniser
from stream_server.scheduler.costs import CostMeter, TurnCosts, measure, measuring
from stream_server.scheduler.demand import Demand
from stream_server.scheduler.request import Decoded, Dropped, Failed, Reply, Request
from stream_server.scheduler.rows import Rows
from stream_server.scheduler.scheduler import Admission, Outcome, Scheduler
from stream_server.tracing import Decode, Tracing

_log = logging.getLogger(__name__)

_LOOK_AGAIN = 5.0
"""Seconds without a turn after which an engine that is full measures again: what was measured or
learnt while the machine was busy with something else must not keep clients out of an idle one."""

EngineState = Literal["new", "starting", "running", "draining", "closed", "broken"]
ReplyCallback = Callable[[Reply], None]


@dataclass(frozen=True, slots=True)
class Load:
    """How much the engine has to do."""

    queued: int
    """Requests that wait."""
    running: int
    """Rows in the current step."""


class Engine:
    """Runs requests on a recogniser, a denoising step at a time.

    Args:
        recogniser: called from the engine's thread alone.
        config: bounds and deadlines.
        metrics: where to count; none counts nothing.
        clock: seconds that only go forward; the scale of ``Request.deadline``.
        measures: whether to find out, before work is taken and while it is done, what turns take,
            so that finals keep their time and the load is known.
        tracing: where to tell of each decode; none tells nobody.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        config: SchedulerConfig,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        measures: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        advised = recogniser.info.max_rows
        max_rows = min(config.max_rows, advised) if config.max_rows else advised
        self._costs = CostMeter() if measures else None
        self._demand = Demand(config.busy_share, max_rows, recogniser.info.default_steps)
        self._new_scheduler = partial(Scheduler, config, max_rows, self._costs)
        self._recogniser = recogniser
        self._metrics = metrics
        self._tracing = tracing
        self._encoding: dict[int, float] = {}
        """Seconds in which each live row was started, where somebody is told."""
        self._clock = clock
        self._rows = Rows(recogniser)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # The condition guards everything below it.
        self._changed = threading.Condition()
        self._scheduler = self._new_scheduler()
        self._waiters: dict[int, tuple[Request, ReplyCallback]] = {}
        self._delivering = 0
        self._outbox: list[Outcome] = []
        self._state: EngineState = "new"
        self._error: BaseException | None = None
        self._is_full = False
        """Whether nobody more fitted, since it was measured."""
        self._learnt_at = clock()
        if metrics is not None:
            metrics.watch_queue(self.queue_age)

    @property
    def state(self) -> EngineState:
        """Where the engine is in its life."""
        return self._state

    @property
    def is_ready(self) -> bool:
        """Whether the engine is warm and takes requests."""
        return self._state == "running"

    @property
    def error(self) -> BaseException | None:
        """What broke the engine, if anything did."""
        return self._error

    def load(self) -> Load:
        """Return how much waits and runs. Thread-safe."""
        with self._changed:
            return Load(self._scheduler.queued, self._scheduler.running)

    def queue_age(self) -> float:
        """Return for how many seconds the oldest request has waited. Thread-safe."""
        with self._changed:
            oldest = self._scheduler.oldest
            return 0.0 if oldest is None else max(0.0, self._clock() - oldest)

    def fits(self, sessions: int) -> int | None:
        """Return how many sessions fit by what those inside take; none is any number. Thread-safe.

        Args:
            sessions: that are inside.
        """
        if self._costs is None:
            return None
        with self._changed:
            self._demand.observe(self._clock(), sessions, self._scheduler.urgent_work)
            fits = self._demand.fits(self._costs.costs)
            if fits is not None and sessions >= fits:
                self._is_full = True
                self._changed.notify_all()
        if self._metrics is not None:
            self._metrics.record_capacity(fits or 0)
        return fits

    def start(self, *, wait: bool = True) -> None:
        """Start the thread, which warms the model up before it takes work.

        Args:
            wait: return only when the model is warm; otherwise watch :attr:`is_ready`.

        Raises:
            ModelError: the warm-up failed (only with ``wait``).
        """
        with self._changed:
            if self._state != "new":
                raise RuntimeError(f"the engine was started before; it is {self._state}")
            self._state = "starting"
        self._thread.start()
        if not wait:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._state != "starting")
        if self._error is not None:
            raise ModelError(f"the model failed to warm up: {self._error}") from self._error

    def submit(self, request: Request, reply: ReplyCallback) -> None:
        """Take a request; ``reply`` is called exactly once, on the engine's thread. Thread-safe.

        ``reply`` should be brief: the model waits meanwhile.

        Raises:
            Overloaded: the queue is full. A partial is better forgotten then; the next comes soon.
            Draining: the engine takes nothing new, or has stopped.
        """
        with self._changed:
            if self._state in ("draining", "closed", "broken"):
                raise Draining("the server is about to stop; connect again, or to another")
            submission = self._scheduler.submit(request, self._clock())
            self._waiters[submission.number] = (request, reply)
            self._outbox += submission.dropped
            self._changed.notify_all()

    def cancel(self, stream: str, segment: int | None = None) -> None:
        """Drop a stream's requests, or those of one segment. Thread-safe.

        Those that run leave at the next step boundary. Each still gets its one reply.
        """
        with self._changed:
            self._outbox += self._scheduler.cancel(stream, segment)
            self._changed.notify_all()

    def promote(self, stream: str, segment: int) -> None:
        """Make the partial of a segment its final, if it is still here. Thread-safe.

        Its one reply then has the request as a final.
        """
        with self._changed:
            promoted = self._scheduler.promote(stream, segment, self._clock())
            if promoted is not None:
                number, request = promoted
                self._waiters[number] = (request, self._waiters[number][1])

    def drain(self, timeout: float = 0.0) -> bool:
        """Refuse new requests and finish those that were taken.

        Args:
            timeout: seconds to wait for that.

        Returns:
            Whether every request has had its reply.
        """
        with self._changed:
            if self._state in ("new", "starting", "running"):
                self._set_state("draining")
            return self._changed.wait_for(self._all_replied, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Stop at the next step boundary; what is left fails with :exc:`Draining`. Idempotent.

        Args:
            timeout: seconds to wait for the thread, which may be inside a long step.
        """
        with self._changed:
            if self._state not in ("closed", "broken"):
                self._set_state("closed")
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
            if self._thread.is_alive():
                _log.error("the engine's thread did not end within %.1f s", timeout)
        self._fail_all(Draining("the server stopped before this was decoded"))

    # --- the engine's thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._recogniser.warm_up()
            if self._costs is not None:
                self._costs.restart(measure(self._recogniser, self._clock))
                self._learnt_at = self._clock()
                self.fits(0)
            with self._changed:
                if self._state == "starting":
                    self._set_state("running")
            while self._turn():
                pass
            self._fail_all(Draining("the server stopped before this was decoded"))
        # Whatever it is, a thread that ended silently would leave every client waiting.
        except BaseException as error:
            self._break(error)
        finally:
            self._rows.release_all()

    def _turn(self) -> bool:
        """Wait for work and run one step; return whether to go on."""
        with self._changed:
            if not self._wait_for_work():
                return False
            looks_again = self._looks_again_in() == 0
            plan = self._scheduler.schedule(self._clock())
            outcomes = [*self._take_outbox(), *plan.dropped]
        if not _has_rest(outcomes):
            self._deliver(outcomes)
            outcomes = []
        self._rows.release(plan.release)
        began = self._clock()
        failures = self._start(plan.admit)
        end = self._rows.launch(plan.step)
        # The device works: time for the words of those that the step before finished.
        self._deliver(outcomes)
        result = end()
        if plan.step and self._metrics is not None:
            self._metrics.record_step(len(plan.step), self._clock() - began)
        failures.update(result.failures)
        for number, failure in failures.items():
            with structlog.contextvars.bound_contextvars(session=self._stream(number)):
                _log.error("the model failed on a request", exc_info=failure)
        errors: dict[int, ServiceError] = {number: _model_failed() for number in failures}
        with self._changed:
            outcomes = self._scheduler.complete(result.hypotheses, errors, self._clock())
            if plan.step:
                self._learnt_at = self._clock()
            if _has_rest(outcomes):
                self._outbox, outcomes = [*outcomes, *self._outbox], []
        self._deliver(outcomes)
        if looks_again:
            self._measure_again()
        return True

    def _looks_again_in(self) -> float | None:
        """Return in how many seconds to measure again; none where that is not wanted."""
        if not self._is_full or self._state != "running" or not self._scheduler.is_idle:
            return None
        return max(0.0, self._learnt_at + _LOOK_AGAIN - self._clock())

    def _measure_again(self) -> None:
        """Measure, unless work comes meanwhile: then it does not wait, and teaches as much."""
        tries = measuring(self._recogniser, self._clock)
        costs: TurnCosts | None = None
        try:
            while True:
                next(tries)
                with self._changed:
                    if self._looks_again_in() is None:
                        return
        except StopIteration as done:
            costs = done.value
        except BaseException:  # as in a turn: it costs no more than what was tried
            _log.exception("what turns take could not be measured again")
        with self._changed:
            self._is_full = False
            self._learnt_at = self._clock()
            if costs is not None and self._costs is not None:
                self._costs.restart(costs)

    def _stream(self, number: int) -> str | None:
        with self._changed:
            waiter = self._waiters.get(number)
            return waiter[0].stream if waiter else None

    def _start(self, admitted: Sequence[Admission]) -> dict[int, BaseException]:
        began = self._clock()
        failures = self._rows.start({each.number: each.request.utterance for each in admitted})
        if self._tracing is not None:
            self._encoding |= dict.fromkeys(
                (each.number for each in admitted), self._clock() - began
            )
        return failures

    def _wait_for_work(self) -> bool:
        """Wait, the condition held, until there is something to do; false when closed."""
        while self._state != "closed" and not self._outbox:
            pause = self._scheduler.pause(self._clock())
            if pause is None:
                pause = self._looks_again_in()
            if pause == 0:
                break
            if self._metrics is not None:
                self._metrics.record_idle()
            self._changed.wait(pause)
        return self._state != "closed"

    def _all_replied(self) -> bool:
        return not self._waiters and not self._delivering

    def _take_outbox(self) -> list[Outcome]:
        taken, self._outbox = self._outbox, []
        return taken

    def _set_state(self, state: EngineState) -> None:
        self._state = state
        self._changed.notify_all()
        if self._metrics is not None:
            self._metrics.record_engine_up(state in ("running", "draining"))

    def _break(self, error: BaseException) -> None:
        _log.critical("the engine broke and takes no more work", exc_info=error)
        with self._changed:
            self._error = error
            self._state = "broken"
            self._changed.notify_all()
        self._fail_all(RecognitionFailed("the model has stopped; connect to another server"))
        if self._metrics is not None:
            self._metrics.record_engine_up(False)

    def _fail_all(self, error: ServiceError) -> None:
        """Reply to every waiter; from the waiters themselves, as the scheduler may be broken."""
        with self._changed:
            # Those in the outbox are told what is in there: the first reply to each counts.
            outcomes = self._take_outbox()
            outcomes += [
                Outcome(number, Failed(request, error))
                for number, (request, _) in self._waiters.items()
            ]
            self._scheduler = self._new_scheduler()
        self._deliver(outcomes)

    def _deliver(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            # Popped, so that a thread that hung and was given up by close() replies to nobody.
            with self._changed:
                request, callback = self._waiters.pop(outcome.number, (None, None))
                if request is None or callback is None:
                    continue
                self._delivering += 1
            encoding = self._encoding.pop(outcome.number, 0.0)
            reply = _whole(outcome.reply)
            # The reply comes last: whoever has it may end the session, whose span these belong to.
            for receive in (self._record, partial(self._trace, encoding), callback):
                try:
                    receive(reply)
                except BaseException:  # The receiver's defect; the other replies go on.
                    with structlog.contextvars.bound_contextvars(session=request.stream):
                        _log.exception("the reply to %s/%d failed", request.stream, request.segment)
            with self._changed:
                self._delivering -= 1
                if self._all_replied():
                    self._changed.notify_all()

    def _trace(self, encoding: float, reply: Reply) -> None:
        if self._tracing is None or not isinstance(reply, Decoded):
            return
        request = reply.request
        self._tracing.record(
            Decode(
                session=request.stream,
                segment=request.segment,
                revision=request.revision,
                is_final=request.is_final,
                audio_seconds=len(request.utterance.pcm) / SAMPLE_RATE,
                queue_seconds=reply.queue_ms / 1000,
                encode_seconds=encoding,
                steps_seconds=max(0.0, reply.decode_ms / 1000 - encoding),
                steps=reply.hypothesis.step,
            )
        )

    def _record(self, reply: Reply) -> None:
        if self._metrics is None:
            return
        match reply:
            case Decoded(request, hypothesis, queue_ms, decode_ms):
                if hypothesis.is_guarded:
                    self._metrics.record_guard_hit(is_final=request.is_final)
                self._metrics.record_decoded(
                    is_final=request.is_final,
                    queue_seconds=queue_ms / 1000,
                    decode_seconds=decode_ms / 1000,
                    audio_seconds=len(request.utterance.pcm) / SAMPLE_RATE,
                )
            case Failed(_, error):
                self._metrics.record_request_failed(wire_error(error).code)
            case Dropped(request, reason):
                if not request.is_final:
                    self._metrics.record_partial_dropped(reason)


def _model_failed() -> RecognitionFailed:
    """Return what the client learns: that it failed, not how, which is in the log."""
    return RecognitionFailed("the model failed on this audio")


def _has_rest(outcomes: Iterable[Outcome]) -> bool:
    """Whether some replies lack words: they are told once the next step is launched."""
    replies = (each.reply for each in outcomes)
    return any(isinstance(each, Decoded) and each.hypothesis.rest for each in replies)


def _whole(reply: Reply) -> Reply:
    """Return a reply with its words."""
    if not isinstance(reply, Decoded) or reply.hypothesis.rest is None:
        return reply
    try:
        return replace(reply, hypothesis=reply.hypothesis.whole())
    except BaseException:  # as in a step: it costs no more than this request
        with structlog.contextvars.bound_contextvars(session=reply.request.stream):
            _log.exception("the model failed on a request")
        return Failed(reply.request, _model_failed())


__all__ = ["Engine", "EngineState", "Load", "ReplyCallback"]
