"""Ranges of what a client may ask for. Types are the codec's work; this is about values.

Each refusal names the path of the field, the value and what is allowed.
"""

from __future__ import annotations

import re

from stream_protocol.messages import Configure, Endpointing, Resume, Start
from stream_server.errors import InvalidField
from stream_server.recogniser.interface import SAMPLE_RATE, RecogniserInfo

_LANGUAGE = re.compile(r"[a-z]{2,3}")
_MAX_TOKEN = 256
"""Characters of a resume token."""
_MAX_POSITION = 1 << 48
"""Samples; 557 years, which no overflow reaches and no mistake of sign passes."""

_MAX_LEAD = 300 * SAMPLE_RATE
"""Samples that may be heard again: the lead, and what one channel can be behind the other."""


def validate_start(start: Start, info: RecogniserInfo) -> None:
    """Check the values of ``start``.

    Raises:
        InvalidField: One is outside its range.
    """
    if start.encoding not in ("webm", "ogg"):
        _within("$.channels", start.channels, 1, 2)
    _check_interval(start.partial_interval_ms)
    if start.steps is not None:
        _within("$.steps", start.steps, 1, 64)
    _check_language(start.language, info)
    _check_endpointing(start.endpointing)
    if start.resume is not None:
        _check_resume(start.resume, start.channels if start.channel_mode == "split" else 1)


def validate_configure(configure: Configure, info: RecogniserInfo) -> None:
    """Check the values of ``configure``.

    Raises:
        InvalidField: One is outside its range.
    """
    if configure.partial_interval_ms is not None:
        _check_interval(configure.partial_interval_ms)
    _check_language(configure.language, info)
    if configure.endpointing is not None:
        _check_endpointing(configure.endpointing)


def _check_endpointing(endpointing: Endpointing) -> None:
    path = "$.endpointing."
    _within(path + "silence_ms", endpointing.silence_ms, 100, 5000)
    _within(path + "max_segment_ms", endpointing.max_segment_ms, 2000, 30_000)
    _within(path + "min_speech_ms", endpointing.min_speech_ms, 0, 2000)


def _check_resume(resume: Resume, channels: int) -> None:
    _within("$.resume.position", resume.position, 0, _MAX_POSITION)
    _within("$.resume.segment", resume.segment, 0, _MAX_POSITION)
    if not 1 <= len(resume.token) <= _MAX_TOKEN:
        raise InvalidField(
            f"a resume token has 1 to {_MAX_TOKEN} characters, this one {len(resume.token)}: "
            "send the resume_token of the `ready` message",
            field="$.resume.token",
        )
    if resume.channels is None:
        return
    if len(resume.channels) != channels:
        raise InvalidField(
            f"resume.channels has {len(resume.channels)} entries; this stream has {channels} "
            f"{'transcript' if channels == 1 else 'transcripts'}, and each has one",
            field="$.resume.channels",
        )
    for index, channel in enumerate(resume.channels):
        path = f"$.resume.channels[{index}].covered"
        _within(path, channel.covered, resume.position, resume.position + _MAX_LEAD)


def _check_interval(milliseconds: int) -> None:
    if milliseconds != 0:
        _within("$.partial_interval_ms", milliseconds, 100, 10_000, extra="0 (no partials) or ")


def _check_language(language: str | None, info: RecogniserInfo) -> None:
    if language is None:
        return
    if not _LANGUAGE.fullmatch(language):
        raise InvalidField(
            "language is not an ISO 639-1 code such as 'en'; leave it out to let the model decide",
            field="$.language",
        )
    if info.languages and language not in info.languages:
        known = ", ".join(info.languages)
        raise InvalidField(
            f"the model {info.name!r} does not know language {language!r}; it knows {known}",
            field="$.language",
        )


def _within(path: str, value: int, low: int, high: int, extra: str = "") -> None:
    if not low <= value <= high:
        name = path.removeprefix("$.")
        raise InvalidField(f"{name} is {value}; allowed: {extra}{low} to {high}", field=path)


__all__ = ["validate_configure", "validate_start"]
