"""What is measured: a model of ours, as its checkpoint says or otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stream_server.config import RecogniserConfig
from stream_server.errors import ConfigError
from stream_server.recogniser.checkpoint import load_recogniser
from stream_server.recogniser.interface import Recogniser
from stream_server.recogniser.recogniser import DiffusionRecogniser


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


STARTS = ("noise", "ctc")


def load_subject(config: RecogniserConfig, start: str | None = None) -> Subject:
    """Load a model.

    Args:
        config: which, and where it runs.
        start: what canvases begin from, in the place of what the checkpoint says.

    Raises:
        ConfigError: an option does not go with this model.
        ModelError: it cannot be loaded.
    """
    if start is not None and start not in STARTS:
        raise ConfigError("start", start, f"one of {', '.join(STARTS)}")
    recogniser = load_recogniser(config)
    if not isinstance(recogniser, DiffusionRecogniser):
        return Subject(recogniser)
    if start is not None:
        recogniser.retune(replace(recogniser.sampler, start=start))
    return Subject(recogniser, start=recogniser.sampler.start, scheme="uniform")


__all__ = ["STARTS", "Subject", "load_subject"]
