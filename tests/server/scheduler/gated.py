"""What the tests of the engine share: a fake that waits at a gate, and who collects replies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stream_server.recogniser.fake import FakeRecogniser, FakeRow
from stream_server.recogniser.interface import Hypothesis, RecogniserInfo, Row, Utterance
from stream_server.scheduler.engine import Engine
from stream_server.scheduler.request import Reply, Request

BAD = 666
PATIENCE = 10.0
"""Seconds after which a test gives up; none takes anywhere near so long."""
ONE_ROW = RecogniserInfo("one", ("en",), 160_000, max_rows=1, default_steps=2)


def utterance(seed: int = 0, steps: int = 3) -> Utterance:
    return Utterance(np.full(9600, 0.1, np.float32), steps=steps, seed=seed)


def partial(stream: str, segment: int = 0, revision: int = 1, seed: int = 0) -> Request:
    return Request(stream, segment, revision, False, utterance(seed))


def final(stream: str, segment: int = 0, seed: int = 0, deadline: float | None = None) -> Request:
    return Request(stream, segment, 99, True, utterance(seed), deadline)


@dataclass(slots=True)
class Gated(FakeRecogniser):
    """A fake that takes a step only when the gate is open, and notes who calls it."""

    gate: threading.Event = field(default_factory=threading.Event)
    at_gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released as often as a step begins."""
    threads: set[str] = field(default_factory=set)
    sizes: list[int] = field(default_factory=list)
    """Rows of each step."""

    def start(self, utterances: Sequence[Utterance]) -> Sequence[FakeRow]:
        self.threads.add(threading.current_thread().name)
        return FakeRecogniser.start(self, utterances)

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        self.threads.add(threading.current_thread().name)
        self.sizes.append(len(rows))
        self.at_gate.release()
        assert self.gate.wait(PATIENCE)
        if any(row.utterance.seed == BAD for row in rows):
            raise RuntimeError("CUDA error: secret detail")
        return FakeRecogniser.step(self, rows)

    def await_step(self) -> None:
        assert self.at_gate.acquire(timeout=PATIENCE)


@dataclass(slots=True)
class Beside(Gated):
    """The same, whose steps run beside the caller; words are put off, and BAD ones cannot be found.

    A step is at the gate when it is waited for.
    """

    done: list[str] = field(default_factory=list)
    """What was done, in order; a word for each."""

    def launch(self, rows: Sequence[Row]) -> Callable[[], Sequence[Hypothesis]]:
        self.done.append(f"launch {len(rows)}")
        own = list(rows)

        def wait() -> Sequence[Hypothesis]:
            self.sizes.append(len(own))
            self.at_gate.release()
            assert self.gate.wait(PATIENCE)
            self.done.append("end")
            found = FakeRecogniser.step(self, own)
            return [self._put_off(row, each) for row, each in zip(own, found, strict=True)]

        return wait

    def _put_off(self, row: Row, said: Hypothesis) -> Hypothesis:
        if not said.is_final:
            return said

        def rest() -> Hypothesis:
            self.done.append("words")
            if row.utterance.seed == BAD:
                raise RuntimeError("secret detail")
            return said

        return replace(said, words=(), rest=rest)


class Inbox:
    """Collects replies."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.threads: set[str] = set()
        self._changed = threading.Condition()

    def __call__(self, reply: Reply) -> None:
        with self._changed:
            self.replies.append(reply)
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()

    def wait(self, count: int = 1) -> list[Reply]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.replies) >= count, PATIENCE)
            return list(self.replies)


Build = Callable[..., Engine]
