"""A model decodes as its checkpoint says, unless it is told otherwise."""

from __future__ import annotations

import pytest

from stream_server.config import RecogniserConfig
from stream_server.errors import ConfigError, ModelError
from stream_server.evaluation.subject import load_subject

CONFIG = RecogniserConfig("embedded", "cpu", threads=1)


@pytest.mark.model
def test_the_start_can_be_chosen() -> None:
    as_stored = load_subject(CONFIG)
    assert as_stored.start in ("noise", "ctc")
    assert as_stored.scheme == "uniform"
    assert as_stored.has_steps
    for start in ("noise", "ctc"):
        assert load_subject(CONFIG, start).start == start


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ConfigError, match="noise, ctc"):
        load_subject(CONFIG, "zeros")
    with pytest.raises(ModelError, match="nowhere"):
        load_subject(RecogniserConfig("nowhere"))
