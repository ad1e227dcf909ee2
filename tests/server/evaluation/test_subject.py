"""A model decodes as its checkpoint says, unless it is told otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stream_server.config import RecogniserConfig
from stream_server.errors import ConfigError, ModelError
from stream_server.evaluation.subject import load_subject, parse_guard
from stream_server.recogniser.checkpoint import EMBEDDED, load_model
from stream_server.recogniser.support import GuardConfig

CONFIG = RecogniserConfig("embedded", "cpu", threads=1)


@pytest.mark.model
def test_the_start_can_be_chosen() -> None:
    as_stored = load_subject(CONFIG)
    assert as_stored.start in ("noise", "ctc")
    assert as_stored.scheme == "uniform"
    assert as_stored.has_steps
    for start in ("noise", "ctc"):
        assert load_subject(CONFIG, start=start).start == start
    assert as_stored.guard == load_model(EMBEDDED)[0].config.guard
    assert load_subject(CONFIG, guard=GuardConfig(0, 0)).guard == GuardConfig(0, 0)


def test_the_guard_is_one_threshold_or_several() -> None:
    assert parse_guard("0") == GuardConfig(0, 0)
    assert parse_guard("0.1,0.4") == GuardConfig(word=0.1, text=0.4)
    assert parse_guard("0.1,0.4,0.6") == GuardConfig(0.1, 0.4, 0.6)
    assert parse_guard("0.1,0.4,0.6,0.2") == GuardConfig(0.1, 0.4, 0.6, 0.2)
    for wrong in ("", "a", "1.5", "0.1,0.2,0.3,0.4,0.5", "nan", "-1"):
        with pytest.raises(ConfigError, match="guard"):
            parse_guard(wrong)


@pytest.mark.model
def test_a_checkpoint_of_the_absorbing_scheme_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "absorbing"
    shutil.copytree(EMBEDDED, folder)
    document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    document["model"]["sampler"]["scheme"] = "absorbing"
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    config = RecogniserConfig(str(folder), "cpu", threads=1)
    subject = load_subject(config)
    assert (subject.scheme, subject.start) == ("absorbing", "masks")
    with pytest.raises(ConfigError, match="masks"):
        load_subject(config, start="ctc")


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ConfigError, match="noise, ctc"):
        load_subject(CONFIG, start="zeros")
    with pytest.raises(ModelError, match="nowhere"):
        load_subject(RecogniserConfig("nowhere"))
    with pytest.raises(ConfigError, match="pocketsphinx"):
        load_subject(CONFIG, "sphynx")
    with pytest.raises(ConfigError, match="--guard"):
        load_subject(CONFIG, "whisper", guard=GuardConfig())
    with pytest.raises(ConfigError, match="hub name"):
        load_subject(CONFIG, "whisper")
