"""What a session runs with: the real engine and a fake recogniser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from stream_server.config import (
    LimitsConfig,
    RecogniserConfig,
    SchedulerConfig,
    SegmenterConfig,
)
from stream_server.metrics import Metrics
from stream_server.recogniser.fake import FAKE_INFO, FakeRecogniser
from stream_server.scheduler.engine import Engine
from stream_server.session.driver import Services


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def services(executor: ThreadPoolExecutor) -> AsyncIterator[Services]:
    engine = Engine(FakeRecogniser(), SchedulerConfig())
    engine.start()
    yield Services(
        engine,
        FAKE_INFO,
        LimitsConfig(),
        SegmenterConfig(),
        Metrics(),
        executor,
        RecogniserConfig(steps=4, partial_steps=2),
        asyncio.Event(),
    )
    # A session that ended leaves nothing in the engine.
    assert await asyncio.to_thread(engine.drain, 5.0)
    engine.close()
    assert len(asyncio.all_tasks()) == 1, "a task outlived its session"
