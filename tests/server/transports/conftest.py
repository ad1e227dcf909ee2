"""Services with a fake recogniser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

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
