"""Engines that are closed after the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stream_server.config import SchedulerConfig
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.scheduler.engine import Engine
from tests.server.scheduler.gated import PATIENCE, Build


@pytest.fixture
def build() -> Iterator[Build]:
    engines: list[Engine] = []

    def make(recogniser: FakeRecogniser, *, start: bool = True, **options: object) -> Engine:
        options.setdefault("config", SchedulerConfig())
        engine = Engine(recogniser, **options)  # type: ignore[arg-type]
        engines.append(engine)
        if start:
            engine.start()
        return engine

    yield make
    for engine in engines:
        engine.close(PATIENCE)
