"""Logs are JSON with the session, and no frames or keys get into them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from stream_server.logs import configure_logging


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "websockets", "asyncio", "libav"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(level: str) -> tuple[io.StringIO, structlog.stdlib.BoundLogger]:
    stream = io.StringIO()
    configure_logging(level, stream)
    return stream, structlog.stdlib.get_logger("test")


def read(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_both_kinds_of_loggers_write_json_with_the_session() -> None:
    stream, log = lines("info")
    with structlog.contextvars.bound_contextvars(session="s1"):
        log.info("one", code="x")
        logging.getLogger("engine").warning("two %s", 2)
    first, second = read(stream)
    assert (first["event"], first["session"], first["code"]) == ("one", "s1", "x")
    assert (second["event"], second["session"], second["level"]) == ("two 2", "s1", "warning")


def test_errors_carry_their_cause() -> None:
    stream, _ = lines("info")
    try:
        raise ValueError("cause")
    except ValueError:
        logging.getLogger("engine").exception("failed")
    assert "ValueError: cause" in str(read(stream)[0]["exception"])


def test_the_level_is_kept() -> None:
    stream, log = lines("warning")
    log.info("quiet")
    logging.getLogger("x").info("quiet")
    log.warning("loud")
    assert [line["event"] for line in read(stream)] == ["loud"]


@pytest.mark.parametrize("name", ["uvicorn.error", "websockets"])
def test_libraries_that_would_log_keys_and_frames_are_kept_quiet(name: str) -> None:
    stream, _ = lines("debug")
    logging.getLogger(name).info("GET /v1/stream?api_key=sesame")
    logging.getLogger(name).debug("< TEXT ...")
    assert stream.getvalue() == ""
