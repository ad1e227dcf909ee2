"""A stage that fails or hangs ends alone, and what has run is not run again."""

from __future__ import annotations

import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from stream_server.evaluation import bench, random_server


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, which is no package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("session")


def test_a_stage_that_hangs_is_stopped_with_what_it_started(session: Any, tmp_path: Path) -> None:
    code = "import subprocess; subprocess.run(['sleep', '600'])"
    log = tmp_path / "log"
    began = time.monotonic()
    ran = session.run(session.Stage("hangs", 600, ("-c", code)), 1, dict(os.environ), log)
    assert ran.status == -9
    assert time.monotonic() - began < 60
    assert "sleep" in log.read_text(), "the log begins with the command"


def test_a_failed_stage_does_not_stop_the_next(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two(out: Path, tiny: bool) -> list[Any]:
        count = "open('count', 'a').write('x')"
        return [
            session.Stage("bad", 90, ("-c", f"{count}; raise SystemExit(3)")),
            session.Stage("good", 90, ("-c", f"{count}; print('heard')")),
        ]

    monkeypatch.setattr(session, "plan", two)
    monkeypatch.setattr(session, "ROOT", tmp_path)
    out = tmp_path / "out"
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["session", "--out", str(out), "--resume"])
        assert session.main() == 1
    told = json.loads((out / "session.json").read_text())
    assert [(each["name"], each["status"]) for each in told] == [("bad", 3), ("good", 0)]
    assert "heard" in (out / "good.log").read_text()
    assert (out / "session.tgz").is_file()
    assert (tmp_path / "count").read_text() == "xx", "neither ran twice"


def test_where_a_package_is_missing_nothing_is_tried(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = session.Stage(session.FIRST, 90, ("-c", "import no_such_package"))
    other = session.Stage("other", 90, ("-c", "open('ran', 'w')"))
    monkeypatch.setattr(session, "plan", lambda out, tiny: [first, other])
    monkeypatch.setattr(session, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["session", "--out", str(tmp_path / "out")])
    assert session.main() == 1
    assert not (tmp_path / "ran").exists()
    assert "no_such_package" in (tmp_path / "out" / f"{session.FIRST}.log").read_text()


def test_what_was_stopped_is_tried_again(
    session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import time; open('count', 'a').write('x'); time.sleep(600)"
    stage = session.Stage("slow", 3, ("-c", code))
    monkeypatch.setattr(session, "plan", lambda out, tiny: [stage])
    monkeypatch.setattr(session, "ROOT", tmp_path)
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["session", "--out", str(tmp_path / "out"), "--resume"])
        assert session.main() == 1
    assert (tmp_path / "count").read_text() == "xx"


def test_what_matters_most_fits_into_nine_minutes(session: Any, tmp_path: Path) -> None:
    """If each takes what it took or is hoped to take, the last of them is still begun."""
    stages = session.plan(tmp_path, tiny=False)[:6]
    names = ["packages", "tests", "capacity", "capacity-float8-32-words", "start", "decode-between"]
    assert [stage.name for stage in stages] == names
    assert sum(stage.seconds for stage in stages[2:4]) <= 360
    left = 540 - sum((15, stages[1].seconds, 150, 150, 45))
    assert left >= session.LEAST * stages[-1].seconds


def test_commands_have_options_that_there_are(session: Any, tmp_path: Path) -> None:
    """As they are run on a GPU, read but not obeyed; ``--tiny`` runs others."""
    bench_app: Any = typer.main.get_command(bench.app)
    seen = set()
    for stage in session.plan(tmp_path, tiny=False):
        command = stage.command
        if command[: len(session.SERVER)] != session.SERVER or stage.name == session.FIRST:
            continue
        name, *options = command[len(session.SERVER) :]
        context = bench_app.commands[name].make_context(name, options)
        assert context.params["random_full_size"]
        assert random_server.parse(context.args).scheduler
        seen.add(name)
    assert seen == {"capacity", "decode"}


def test_stages_have_names_of_their_own(session: Any, tmp_path: Path) -> None:
    for tiny in (False, True):
        names = [stage.name for stage in session.plan(tmp_path, tiny)]
        assert len(set(names)) == len(names) > 5
