"""Services with a fake recogniser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from stream_protocol import messages
from stream_server.config import LimitsConfig, SchedulerConfig, SegmenterConfig
from stream_server.metrics import Metrics
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import Recogniser
from stream_server.scheduler.engine import Engine
from stream_server.session.driver import Services


@pytest.fixture
def make_services() -> Iterator[Callable[..., Services]]:
    """Makes services around any recogniser; they end with the test."""
    engines: list[Engine] = []
    with ThreadPoolExecutor(2) as executor:

        def make(
            recogniser: Recogniser | None = None,
            limits: LimitsConfig | None = None,
            scheduler: SchedulerConfig | None = None,
        ) -> Services:
            recogniser = recogniser or FakeRecogniser()
            engine = Engine(recogniser, scheduler or SchedulerConfig())
            engines.append(engine)
            engine.start()
            return Services(
                engine=engine,
                info=recogniser.info,
                limits=limits or LimitsConfig(),
                segmenter=SegmenterConfig(),
                metrics=Metrics(),
                executor=executor,
            )

        yield make
        for engine in engines:
            engine.close()


def _partial(segment: int, stable: str, tentative: str = "", *, start: int = 0, end: int = 16_000):
    return messages.Partial(segment, 0, 1, stable, tentative, start, end)


def _final(segment: int, text: str, *, channel: int = 0, start: int = 0, end: int = 16_000):
    parts = text.split()
    step = (end - start) // max(1, len(parts))
    words = [
        messages.Word(part, start + at * step, start + (at + 1) * step, 0.5)
        for at, part in enumerate(parts)
    ]
    timings = messages.Timings(1000.0, 0.0, 0.0, 8)
    return messages.Final(segment, channel, 2, text, start, end, "en", 0.5, words, timings)


@pytest.fixture(scope="session")
def partial() -> Callable[..., messages.Partial]:
    """Makes what a running segment says so far."""
    return _partial


@pytest.fixture(scope="session")
def final() -> Callable[..., messages.Final]:
    """Makes what a segment said, its words spread over it."""
    return _final
