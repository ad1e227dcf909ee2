"""How many streams a machine would bear that is not here: the whole service in virtual time.

Voices, detectors, sessions, scheduler, rows and the generator's measurements are the real ones.
Two things are stood in for: a message's way takes a time by chance, from a seed, and a start, a
step and the host's work around them take what was measured on the machine in question
(``machine_costs``). So a policy can be tried against a GPU's figures on any CPU, and comes out the
same each time. What it cannot know is what no measurement gave it: threads that fight for the
interpreter, a busy host, a model that ends early.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from stream_client.load import LoadPlan, LoadReport, Watch, synthesise
from stream_protocol.messages import Stop
from stream_server.config import SchedulerConfig
from stream_server.evaluation.machine_costs import MachineCosts
from stream_server.evaluation.streaming import StreamSettings, session_policy
from stream_server.recogniser.interface import (
    SAMPLE_RATE,
    Hypothesis,
    HypothesisWord,
    RecogniserInfo,
    Row,
    Utterance,
)
from stream_server.scheduler.costs import CostMeter, measure
from stream_server.scheduler.rows import Rows
from stream_server.scheduler.scheduler import Outcome, Scheduler
from stream_server.session.effects import Cancel, Effect, Promote, Send, Submit
from stream_server.session.intake import Frames, Intake
from stream_server.session.session import Session

VOICES = 8
"""Different voices, as the load generator has them; the streams share them."""
TO_SERVER, TO_CLIENT = (0.001, 0.021), 0.003
"""Seconds from a client's send to its session (the intake waits up to 20 ms for company), and from
an effect to the client: with the fake model a final takes 213 ms (p50) and 225 (p95), of which 200
are the pause."""


@dataclass(slots=True)
class Clock:
    """Virtual time."""

    now: float = 0.0
    """Seconds."""

    def __call__(self) -> float:
        """Return it."""
        return self.now


@dataclass(slots=True, eq=False)
class _Row:
    utterance: Utterance
    canvas: int
    limit: int
    step: int = 0
    is_heard: bool = False

    @property
    def seconds(self) -> float:
        return len(self.utterance.pcm) / SAMPLE_RATE


@dataclass(slots=True)
class TimedRecogniser:
    """Says one word, and takes the time of a model."""

    costs: MachineCosts
    clock: Clock
    info: RecogniserInfo
    chance: random.Random
    busy: float = field(default=0.0, init=False)
    """Seconds of computing."""
    texts: int = field(default=0, init=False)
    """That are still to be aligned, behind the launch of the next step."""

    def warm_up(self) -> None:
        """There is nothing to warm."""

    def start(self, utterances: Sequence[Utterance]) -> Sequence[_Row]:
        """Begin to listen."""
        return [
            _Row(each, self.costs.canvas(len(each.pcm) / SAMPLE_RATE), each.steps)
            for each in utterances
        ]

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        """Take the time of a step, new prompts in it, and of listening beside it; as on a GPU."""
        own = [row for row in rows if isinstance(row, _Row)]
        ready = [row for row in own if row.is_heard]
        listening = self.costs.start(len(own) - len(ready))
        delay = self.costs.words * self.texts + (self.costs.begin if listening else 0.0)
        self.texts = 0
        if self.costs.launched_first is None:
            self._wait(delay)
            delay = 0.0
        if not ready:
            # What is to be told is told while they are listened to.
            begin = self.costs.begin if delay else 0.0
            self._wait(begin)
            self._pass(max(listening, delay - begin))
            ready, listening, delay = own, 0.0, 0.0
        self._wait(self.costs.between(len(own)))
        new = [row.seconds for row in ready if not row.step]
        step = self.costs.step([row.canvas for row in ready], new)
        self._pass(self.costs.beside(step, listening, delay))
        for row in ready:
            row.step += 1
            self._grow(row)
        for row in own:
            row.is_heard = True
        return [_hypothesis(row) for row in own]

    def release(self, rows: Sequence[Row]) -> None:
        """There is nothing to forget."""

    def _grow(self, row: _Row) -> None:
        """Begin again, once, on a larger canvas, where the text found no end; as the recogniser."""
        larger = self.costs.larger(row.canvas)
        if row.step != row.utterance.steps or larger is None:
            return
        if self.chance.random() < self.costs.endless**row.canvas:
            row.canvas = larger
            row.limit += max(2, row.utterance.steps // 2)

    def _wait(self, milliseconds: float) -> None:
        """Take time of the host, in which the device has nothing to do."""
        self.clock.now += milliseconds / 1000

    def _pass(self, milliseconds: float) -> None:
        self._wait(milliseconds)
        self.busy += milliseconds / 1000


def _hypothesis(row: _Row) -> Hypothesis:
    is_final = row.step >= row.limit
    words = (HypothesisWord("word", 0.9),) if is_final else ()
    return Hypothesis((1,), (0.9,), words, row.step, is_final)


@dataclass(slots=True)
class _Client:
    session: Session
    watch: Watch = field(default_factory=Watch)


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What came out."""

    report: LoadReport
    turns: int
    row_steps: int
    turn_ms: float
    """Of a turn, in the mean."""
    busy: float
    """Of the time, how much the model computed."""

    @property
    def remark(self) -> str:
        """What a report does not say."""
        partials = self.report.partials / max(self.report.audio_seconds, 1e-9)
        rows = self.row_steps / max(self.turns, 1)
        return (
            f"{partials:.2f} partials a second of each, "
            f"{rows:.2f} rows a turn, {self.turn_ms:.1f} ms, {self.turns} turns, "
            f"the model busy {100 * self.busy:.0f} % of the time"
        )


class _Stage:
    """All sessions and one engine on one virtual clock."""

    def __init__(
        self,
        costs: MachineCosts,
        config: SchedulerConfig,
        info: RecogniserInfo,
        chance: random.Random,
    ) -> None:
        self.clock = Clock()
        self.model = TimedRecogniser(costs, self.clock, info, chance)
        meter = CostMeter()
        meter.restart(measure(self.model, self.clock))
        self.clock.now = self.model.busy = 0.0
        self._costs = costs
        self._scheduler = Scheduler(config, costs.max_rows, meter)
        self._rows = Rows(self.model)
        self._clients: dict[str, _Client] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._replies: list[Outcome] = []
        self.turns = self.row_steps = 0
        self.turning = 0.0

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Let something happen at a time (seconds)."""
        heapq.heappush(self._events, (when, next(self._order), do))

    def join(self, name: str, client: _Client) -> None:
        """Let a client in."""
        self._clients[name] = client
        self._perform(name, client.session.open())

    def hear(self, name: str, frames: Iterable[Frames]) -> None:
        """Give a session audio."""
        session = self._clients[name].session
        for each in frames:
            effects = session.receive_audio(each.channel, each.pcm, each.speech, each.samples)
            self._perform(name, effects)
        self._answer()

    def stop(self, name: str) -> None:
        """Say a client's ``stop``."""
        self._perform(name, self._clients[name].session.receive_message(Stop()))
        self._answer()

    def run(self) -> None:
        """Let everything happen that is to come."""
        free = 0.0
        while True:
            soonest = self._events[0][0] if self._events else math.inf
            pause = self._scheduler.pause(max(self.clock.now, free))
            begins = math.inf if pause is None else max(self.clock.now, free) + pause
            if begins == soonest == math.inf:
                return
            if begins < soonest:
                free = self._turn(begins)
            else:
                when, _, do = heapq.heappop(self._events)
                self.clock.now = when
                do()

    def _turn(self, now: float) -> float:
        """Run a turn and return when it ends; what it gave comes then."""
        plan = self._scheduler.schedule(now)
        self._replies += plan.dropped
        self._rows.release(plan.release)
        before, self.clock.now = self.clock.now, now
        self._rows.start({each.number: each.request.utterance for each in plan.admit})
        result = self._rows.step(plan.step)
        ended = sum(each.is_final for each in result.hypotheses.values())
        if self._costs.launched_first is None:
            self.clock.now += self._costs.words * ended / 1000
        ends = self.clock.now
        self.clock.now = before
        if plan.step:
            self.turns += 1
            self.turning += ends - now
        self.row_steps += len(plan.step)
        while self._events and self._events[0][0] <= ends:
            self.clock.now, _, do = heapq.heappop(self._events)
            do()
        self.clock.now = ends
        replies = self._scheduler.complete(result.hypotheses, {}, ends)
        if not ended or self._costs.launched_first is None:
            self._replies += replies
            self._answer()
            return ends
        words = self._costs.words * ended / 1000
        if self._scheduler.pause(ends) == 0:
            # The next step is launched first.
            self.model.texts = ended
            self.at(ends + self._costs.between(len(plan.step)) / 1000 + words, self._tell(replies))
            return ends
        self.at(ends + words, self._tell(replies))
        return ends + words

    def _tell(self, replies: Sequence[Outcome]) -> Callable[[], None]:
        def tell() -> None:
            self._replies += replies
            self._answer()

        return tell

    def _answer(self) -> None:
        while self._replies:
            reply = self._replies.pop(0).reply
            client = self._clients[reply.request.stream]
            self._perform(reply.request.stream, client.session.receive_reply(reply))

    def _perform(self, name: str, effects: Iterable[Effect]) -> None:
        client, now = self._clients[name], self.clock.now
        for effect in effects:
            match effect:
                case Send(message):
                    client.watch.received(message, now + TO_CLIENT)
                case Submit(request):
                    self._replies += self._scheduler.submit(request, now).dropped
                case Cancel(segment):
                    self._replies += self._scheduler.cancel(name, segment)
                case Promote(segment):
                    self._scheduler.promote(name, segment, now)


def rehearse(
    plan: LoadPlan,
    costs: MachineCosts,
    config: SchedulerConfig,
    steps: int = 8,
    partial_steps: int = 3,
    seed: int = 0,
) -> Rehearsed:
    """Run a load in virtual time.

    Args:
        plan: synthetic voices only; its URL is not read.
        costs: of the model.
        config: of the scheduler.
        steps: of a final.
        partial_steps: of a partial.
        seed: of what is chance: when each stream begins, how long each message is on its way, and
            whose text finds no end.
    """
    chance = random.Random(seed)
    info = RecogniserInfo("rehearsal", ("en",), 30 * SAMPLE_RATE, costs.max_rows, steps)
    stage = _Stage(costs, config, info, chance)
    settings = StreamSettings(steps, partial_steps)
    voices = [_prepare(plan, voice) for voice in range(min(VOICES, plan.streams))]
    clients = {}
    for index in range(plan.streams):
        name = str(index)
        session = Session(name, plan.start, session_policy(info, settings))
        clients[name] = client = _Client(session)
        # Where within its turn is chance: the load's processes do not begin at the same time.
        begin = plan.ramp_seconds * (index + chance.random()) / plan.streams
        stage.at(begin, lambda name=name, client=client: stage.join(name, client))  # type: ignore[misc]
        _play(stage, name, client, begin, voices[index % len(voices)], chance)
    stage.run()
    wall = stage.clock.now
    for client in clients.values():
        client.watch.result.acked_samples = client.watch.result.sent_samples
        client.watch.result.check()
    report = LoadReport.of([client.watch.result for client in clients.values()], wall)
    turn_ms = 1000 * stage.turning / max(stage.turns, 1)
    return Rehearsed(report, stage.turns, stage.row_steps, turn_ms, stage.model.busy / wall)


_Voice = list[tuple[int, list[Frames]]]
"""Pieces of a stream: the sample after each, and its frames."""


def _prepare(plan: LoadPlan, voice: int) -> _Voice:
    """Return a voice as the intake of a session hears it."""
    data = synthesise(voice, plan.seconds or 30.0)
    intake = Intake(plan.start, 2)
    size = SAMPLE_RATE * plan.chunk_ms // 1000 * 2
    heard: _Voice = []
    for first in range(0, len(data), size):
        piece = data[first : first + size]
        heard.append(((first + len(piece)) // 2, intake.feed(piece)))
    heard.append((heard[-1][0], intake.finish()))
    return heard


def _play(
    stage: _Stage, name: str, client: _Client, begin: float, voice: _Voice, chance: random.Random
) -> None:
    """Plan everything that a client sends."""
    for end, frames in voice:
        when = begin + end / SAMPLE_RATE
        there = when + chance.uniform(*TO_SERVER)
        stage.at(when, lambda end=end, when=when: client.watch.sent(end, when))  # type: ignore[misc]
        stage.at(there, lambda frames=frames: stage.hear(name, frames))  # type: ignore[misc]
    last = begin + voice[-1][0] / SAMPLE_RATE + TO_SERVER[1]
    stage.at(last + 1e-6, lambda: stage.stop(name))


__all__ = [
    "TO_CLIENT",
    "TO_SERVER",
    "VOICES",
    "Clock",
    "Rehearsed",
    "TimedRecogniser",
    "rehearse",
]
