"""What is measured: a model of ours, as its checkpoint says or otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stream_server.config import RecogniserConfig
from stream_server.errors import ConfigError
from stream_server.recogniser.checkpoint import load_recogniser
from stream_server.recogniser.interface import Recogniser
from stream_server.recogniser.recogniser import DiffusionRecogniser
from stream_server.recogniser.support import GuardConfig


@dataclass(frozen=True, slots=True)
class Subject:
    """A recogniser and how it decodes."""

    recogniser: Recogniser
    has_steps: bool = True
    """Whether it refines in steps, so that their number matters."""
    start: str | None = None
    """What canvases begin from, ``noise`` or ``ctc``."""
    scheme: str | None = None
    """Its kind of diffusion."""
    guard: GuardConfig | None = None
    """Support under which text is dropped."""


STARTS = ("noise", "ctc")


def parse_guard(text: str) -> GuardConfig:
    """Read the thresholds of the guard: one for words and texts, or one for each.

    Raises:
        ConfigError: it is none.
    """
    try:
        limits = [float(part) for part in text.split(",")]
    except ValueError:
        limits = []
    if len(limits) not in (1, 2) or not all(0 <= limit <= 1 for limit in limits):
        raise ConfigError("guard", text, "0, or two numbers up to 1: of a word, of a text")
    return GuardConfig(limits[0], limits[-1])


def load_subject(
    config: RecogniserConfig, start: str | None = None, guard: GuardConfig | None = None
) -> Subject:
    """Load a model.

    Args:
        config: which, and where it runs.
        start: what canvases begin from, in the place of what the checkpoint says.
        guard: when text is dropped, in the place of the same.

    Raises:
        ConfigError: an option does not go with this model.
        ModelError: it cannot be loaded.
    """
    if start is not None and start not in STARTS:
        raise ConfigError("start", start, f"one of {', '.join(STARTS)}")
    recogniser = load_recogniser(config)
    if not isinstance(recogniser, DiffusionRecogniser):
        return Subject(recogniser)
    sampler = recogniser.sampler
    recogniser.retune(replace(sampler, start=start or sampler.start), guard or recogniser.guard)
    return Subject(recogniser, True, recogniser.sampler.start, "uniform", recogniser.guard)


__all__ = ["STARTS", "Subject", "load_subject", "parse_guard"]
