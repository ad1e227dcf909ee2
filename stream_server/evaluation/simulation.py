"""A stream through the service in virtual time: nobody waits, and the delays are those of waiting.

Audio arrives at the pace of speech, and a denoising step takes the time that it really takes here;
between the two the clock jumps. Session, intake, segmenter, scheduler, rows and recogniser are the
service's own. What is not in it: the network, the hops between threads (up to 60 ms at the intake)
and other streams; ``realtime`` has the first two.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from stream_protocol.messages import ServerMessage, Stop
from stream_server.config import SchedulerConfig
from stream_server.evaluation.streaming import Stopwatch, StreamSettings, pieces, session_policy
from stream_server.evaluation.track import Timed
from stream_server.recogniser.interface import SAMPLE_RATE, Hypothesis, Pcm
from stream_server.scheduler.rows import Rows
from stream_server.scheduler.scheduler import Outcome, Scheduler
from stream_server.session.effects import Cancel, Effect, Promote, Send, Submit
from stream_server.session.intake import Frames, Intake
from stream_server.session.session import Session


@dataclass(frozen=True, slots=True)
class _Step:
    """A denoising step while it runs."""

    ends: float
    hypotheses: dict[int, Hypothesis]


@dataclass(slots=True)
class _Service:
    """One session and one engine on one virtual clock."""

    session: Session
    scheduler: Scheduler
    rows: Rows
    watch: Stopwatch
    now: float = 0.0
    """Seconds."""
    running: _Step | None = None
    outcomes: deque[Outcome] = field(default_factory=deque)
    sent: list[Timed] = field(default_factory=list)

    def hear(self, frames: Iterable[Frames]) -> None:
        """Give the session audio that has arrived now."""
        for each in frames:
            effects = self.session.receive_audio(each.channel, each.pcm, each.speech, each.samples)
            self.perform(effects)

    def perform(self, effects: Iterable[Effect]) -> None:
        """Do what the session wants, and what follows from it."""
        for effect in effects:
            match effect:
                case Send(message):
                    self._send(message)
                case Submit(request):
                    self.outcomes.extend(self.scheduler.submit(request, self.now).dropped)
                case Cancel(segment):
                    self.outcomes.extend(self.scheduler.cancel("evaluation", segment))
                case Promote(segment):
                    self.scheduler.promote("evaluation", segment, self.now)
        while self.outcomes:
            self.perform(self.session.receive_reply(self.outcomes.popleft().reply))

    def work(self, until: float) -> None:
        """Let the engine work up to a moment, or as long as there is something to do."""
        while True:
            if self.running is None:
                if self.scheduler.is_idle:
                    break
                self.running = self._begin()
            if self.running.ends > until:
                break
            self.now = self.running.ends
            hypotheses, self.running = self.running.hypotheses, None
            self.outcomes.extend(self.scheduler.complete(hypotheses, {}, self.now))
            self.perform(())
        if math.isfinite(until):
            self.now = until

    def _begin(self) -> _Step:
        """Begin the next step; its results are held back until it would end."""
        plan = self.scheduler.schedule(self.now)
        self.outcomes.extend(plan.dropped)
        self.rows.release(plan.release)
        before = self.watch.seconds
        failures = self.rows.start({each.number: each.request.utterance for each in plan.admit})
        result = self.rows.step(plan.step)
        for error in (*failures.values(), *result.failures.values()):
            raise error
        return _Step(self.now + self.watch.seconds - before, result.hypotheses)

    def _send(self, message: ServerMessage) -> None:
        self.sent.append(Timed(self.now, message))


def simulate(watch: Stopwatch, pcm: Pcm, settings: StreamSettings) -> list[Timed]:
    """Send audio through a session of its own and return what the client is sent, and when.

    Args:
        watch: the recogniser, warm.
        pcm: the stream.
        settings: of the session.
    """
    start = settings.start()
    session = Session("evaluation", start, session_policy(watch.info, settings))
    scheduler = Scheduler(SchedulerConfig(), watch.info.max_rows)
    service = _Service(session, scheduler, Rows(watch), watch)
    intake = Intake(start, settings.vad_aggressiveness)
    service.perform(session.open())
    for end, piece in pieces(pcm, settings.chunk_ms):
        service.work(end / SAMPLE_RATE)
        service.hear(intake.feed(piece))
    service.hear(intake.finish())
    service.perform(session.receive_message(Stop()))
    service.work(math.inf)
    return service.sent


__all__ = ["simulate"]
