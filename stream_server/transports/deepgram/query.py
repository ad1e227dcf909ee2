"""Deepgram's query parameters: those that mean something here, checked; all others passed over.

Everything is text in a URL. Booleans come in any case, since Python's clients send ``True``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from starlette.datastructures import QueryParams

from stream_protocol.messages import Encoding, Endpointing, SampleRate
from stream_server.errors import InvalidField
from stream_server.recogniser.interface import RecogniserInfo
from stream_server.transports.opening import Announced, AudioFormat

RAW: Final[Mapping[str, Encoding]] = {
    "linear16": "pcm_s16le",
    "linear32": "pcm_f32le",
    "mulaw": "mulaw",
    "alaw": "alaw",
}
_LIVE: Final = (*RAW, "opus", "ogg-opus")
_RATES: Final = get_args(SampleRate)
_SHORTEST_MS: Final = 300
"""Milliseconds of silence under which no utterance ends. Deepgram's clients ask for 10 or 25, which
its own detector smooths; here a pause that short is found within words."""
_LONGEST_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class LiveQuery:
    """``/v1/listen`` over WebSocket."""

    audio: Announced
    language: str | None
    is_multichannel: bool
    has_interims: bool
    has_vad_events: bool
    is_punctuated: bool
    endpointing_ms: int
    is_endpointed: bool
    """Whether pauses are reported as ends of speech."""
    utterance_end_ms: int
    """0 is off."""

    @property
    def endpointing(self) -> Endpointing:
        """The session's form of it."""
        return Endpointing(silence_ms=self.endpointing_ms)


def read_live(query: QueryParams, info: RecogniserInfo) -> LiveQuery:
    """Read the parameters of a live connection.

    Raises:
        InvalidField: one that means something here has a wrong value.
    """
    endpointing = query.get("endpointing", "true").lower()
    silence = Endpointing().silence_ms
    if endpointing not in ("true", "false"):
        asked = _integer(query, "endpointing", 0, 1_000_000, silence)
        silence = min(max(asked, _SHORTEST_MS), _LONGEST_MS)
    return LiveQuery(
        audio=read_audio(query),
        language=read_language(query.get("language"), info),
        is_multichannel=flag(query, "multichannel"),
        has_interims=flag(query, "interim_results"),
        has_vad_events=flag(query, "vad_events"),
        is_punctuated=is_punctuated(query),
        endpointing_ms=silence,
        is_endpointed=endpointing != "false",
        utterance_end_ms=_integer(query, "utterance_end_ms", 0, 600_000, 0),
    )


def read_audio(query: QueryParams) -> Announced:
    """Read what a live connection says of its audio.

    Raises:
        InvalidField: it cannot be decoded while it arrives.
    """
    name = query.get("encoding", "").lower()
    if not name:
        return Announced(None)
    if name not in _LIVE:
        raise InvalidField(
            f"{name[:20]!r} is not one of {', '.join(_LIVE)}; leave it out for WAV, Ogg and WebM",
            field="encoding",
        )
    if name == "ogg-opus":
        return Announced(AudioFormat("ogg"))
    channels = read_channels(query)
    if name == "opus":
        return Announced(None, is_packets=True, channels=channels)
    return Announced(AudioFormat(RAW[name], read_rate(query), channels))


def read_rate(query: QueryParams) -> int:
    """Read ``sample_rate``, which raw audio needs.

    Raises:
        InvalidField: it is missing or not one that is taken.
    """
    rate = query.get("sample_rate", "")
    if rate not in map(str, _RATES):
        raise InvalidField(
            f"{rate[:20]!r} is not one of {', '.join(map(str, _RATES))}: raw audio needs its "
            "sample rate",
            field="sample_rate",
        )
    return int(rate)


def read_channels(query: QueryParams) -> int:
    """Read ``channels``.

    Raises:
        InvalidField: there are more than two.
    """
    return _integer(query, "channels", 1, 2, 1)


def read_language(tag: str | None, info: RecogniserInfo) -> str | None:
    """Return the language of a BCP 47 tag; none where the model is to decide.

    Raises:
        InvalidField: the model does not know it.
    """
    code = (tag or "multi").replace("_", "-").partition("-")[0].lower()
    if code == "multi":
        return None
    if info.languages and code not in info.languages:
        raise InvalidField(
            f"{code[:20]!r} is not a language of the model {info.name!r}, which knows "
            f"{', '.join(info.languages)}",
            field="language",
        )
    return code


def is_punctuated(query: QueryParams) -> bool:
    """Return whether words come with case and punctuation."""
    return flag(query, "punctuate") or flag(query, "smart_format")


def flag(query: QueryParams, name: str) -> bool:
    """Read a boolean.

    Raises:
        InvalidField: it is neither true nor false.
    """
    value = query.get(name, "").lower()
    if value not in ("", "true", "false"):
        raise InvalidField(f"{value[:20]!r} is neither true nor false", field=name)
    return value == "true"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a turn of ``/v2/listen`` ends.

    The end is found by silence alone, so a confidence stands for a length of silence: 0.7, the
    default, for 500 ms, and each 0.1 for 100 ms more or less.
    """

    eot_threshold: float = 0.7
    eot_timeout_ms: int = 5_000
    eager_eot_threshold: float | None = None

    @property
    def silence_ms(self) -> int:
        """Milliseconds of silence that end a turn."""
        return min(_silence(self.eot_threshold), self.eot_timeout_ms)

    @property
    def is_timeout(self) -> bool:
        """Whether the time-out is what ends a turn."""
        return self.eot_timeout_ms < _silence(self.eot_threshold)

    @property
    def eager_ms(self) -> int | None:
        """Milliseconds of silence after which an end is likely; none where nobody asks."""
        if self.eager_eot_threshold is None:
            return None
        return min(_silence(self.eager_eot_threshold), self.silence_ms)

    @property
    def endpointing(self) -> Endpointing:
        """The session's form of it."""
        return Endpointing(silence_ms=self.silence_ms if self.eager_ms is None else self.eager_ms)


def _silence(threshold: float) -> int:
    return round(threshold * 1000) - 200


def check_thresholds(thresholds: Thresholds) -> Thresholds:
    """Return ``thresholds`` if each is within Deepgram's range.

    Raises:
        InvalidField: one is not.
    """
    eager = thresholds.eager_eot_threshold
    for name, value, low, high in (
        ("eot_threshold", thresholds.eot_threshold, 0.5, 0.9),
        ("eot_timeout_ms", thresholds.eot_timeout_ms, 500, 10_000),
        ("eager_eot_threshold", 0.5 if eager is None else eager, 0.3, 0.9),
    ):
        if not (math.isfinite(value) and low <= value <= high):
            raise InvalidField(f"{value} is not within {low} and {high}", field=name)
    if eager is not None and eager > thresholds.eot_threshold:
        raise InvalidField(
            f"{eager} is over eot_threshold, {thresholds.eot_threshold}",
            field="eager_eot_threshold",
        )
    return thresholds


def read_thresholds(query: QueryParams) -> Thresholds:
    """Read the thresholds of ``/v2/listen``.

    Raises:
        InvalidField: one is outside its range.
    """
    default = Thresholds()
    eager = "eager_eot_threshold"
    return check_thresholds(
        Thresholds(
            eot_threshold=_number(query, "eot_threshold", default.eot_threshold),
            eot_timeout_ms=_integer(query, "eot_timeout_ms", 500, 10_000, default.eot_timeout_ms),
            eager_eot_threshold=_number(query, eager, math.nan) if query.get(eager) else None,
        )
    )


def first_language(hints: Sequence[str], info: RecogniserInfo) -> str | None:
    """Return the one language that is hinted at; none where there are none or several."""
    return read_language(hints[0], info) if len(hints) == 1 else None


def _integer(query: QueryParams, name: str, low: int, high: int, default: int) -> int:
    text = query.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise InvalidField(f"{text[:20]!r} is not a whole number from {low} to {high}", field=name)
    return int(text)


def _number(query: QueryParams, name: str, default: float) -> float:
    text = query.get(name) or str(default)
    try:
        return float(text[:20])
    except ValueError:
        raise InvalidField(f"{text[:20]!r} is not a number", field=name) from None


__all__ = [
    "RAW",
    "LiveQuery",
    "Thresholds",
    "check_thresholds",
    "first_language",
    "flag",
    "is_punctuated",
    "read_audio",
    "read_channels",
    "read_language",
    "read_live",
    "read_rate",
    "read_thresholds",
]
