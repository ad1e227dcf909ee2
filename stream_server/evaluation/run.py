"""A run of measurements: every set, for every number of steps, whole or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream_server.errors import ConfigError
from stream_server.evaluation.accuracy import PADDING, Heard, hear
from stream_server.evaluation.manifest import Example, Selection, read_examples
from stream_server.evaluation.realtime import real_time
from stream_server.evaluation.report import Decoding, Result, summarise_all
from stream_server.evaluation.simulation import simulate
from stream_server.evaluation.streaming import Stopwatch, StreamSettings, stream
from stream_server.evaluation.subject import Subject
from stream_server.recogniser.interface import SAMPLE_RATE

PACES = ("virtual", "realtime")
"""Of streams: in virtual time, where nobody waits, or at the pace of speech."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    manifests: tuple[Path, ...]
    selection: Selection
    steps: tuple[int, ...] = (8,)
    pace: str | None = None
    """One of :data:`PACES`; none decodes whole clips, without a session."""
    batch: int = 1
    """Clips decoded together; whole ones only."""
    silence: float = 0.0
    """Seconds of digital silence, as a set of its own."""
    spelled: bool = False
    """See ``scoring.normaliser``."""


Show = Callable[[str, int], Callable[[Iterable[Any]], Iterable[Any]]]
"""Takes what is being done and of how much, and returns what shows how far it is."""


def parse_steps(text: str) -> tuple[int, ...]:
    """Read a list of numbers of steps.

    Raises:
        ConfigError: it is none, or a number is out of range.
    """
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError("steps", text, "numbers like 1,2,4,8") from None
    if not all(1 <= step <= 64 for step in steps):
        raise ConfigError("steps", text, "from 1 to 64 each")
    return steps


def read_sets(plan: Plan, subject: Subject) -> list[tuple[str, list[Example]]]:
    """Read what is to be measured; whole clips no longer than the model takes.

    Raises:
        ConfigError: there is nothing, or a manifest is wrong.
    """
    selection = plan.selection
    if plan.pace is None:
        longest = (subject.recogniser.info.max_samples - 2 * PADDING) / SAMPLE_RATE
        selection = replace(selection, longest=min(longest, selection.longest))
    sets = [
        (manifest.resolve().parent.name, read_examples(manifest, selection))
        for manifest in plan.manifests
    ]
    if plan.silence:
        sets.append(("silence", [Example(None, None, None, None, plan.silence)]))
    if not sets:
        raise ConfigError("manifest", None, "at least one, or seconds of --silence")
    return sets


def measure(
    plan: Plan, subject: Subject, show: Show, tell: Callable[[Heard], None]
) -> list[Result]:
    """Measure everything that is planned.

    Args:
        plan: what.
        subject: warm.
        show: shows how far it is.
        tell: takes every clip that was heard.

    Raises:
        ConfigError: the plan does not go with the subject, or with the manifests.
    """
    most = subject.recogniser.info.max_rows
    if not 1 <= plan.batch <= most:
        raise ConfigError("batch", plan.batch, f"1 to {most}, the most rows that this model takes")
    if plan.pace and plan.batch != 1:
        raise ConfigError("batch", plan.batch, "1 where clips are streamed")
    sets = read_sets(plan, subject)
    results: list[Result] = []
    watch = Stopwatch(subject.recogniser)
    with real_time(watch) if plan.pace == "realtime" else nullcontext() as live:
        send = simulate if live is None else live.send
        for steps in plan.steps if subject.has_steps else (1,):
            heard: list[tuple[str, Sequence[Heard]]] = []
            for name, examples in sets:
                batches = -(-len(examples) // plan.batch)
                progress = show(f"{name}, {steps} steps", batches)
                if plan.pace is None:
                    found = hear(subject.recogniser, examples, steps, plan.batch, progress)
                else:
                    found = stream(watch, examples, StreamSettings(steps), send, progress)
                for each in found:
                    tell(each)
                heard.append((name, found))
            asked = steps if subject.has_steps else None
            decoding = Decoding(asked, subject.start, subject.scheme, plan.batch, subject.guard)
            results += summarise_all(heard, decoding, plan.spelled)
    return results


__all__ = ["PACES", "Plan", "Show", "measure", "parse_steps", "read_sets"]
