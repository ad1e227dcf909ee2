"""What an offer and a trickled fragment say, and what of it is taken here. Pure text.

Knows nothing of connections; aiortc parses whole descriptions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stream_server.errors import InvalidField

MAX_SDP_BYTES = 65_536
"""Bytes; an offer of a browser has under 10,000."""
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")


@dataclass(frozen=True, slots=True)
class MediaSection:
    """An m-line of an offer and what follows it."""

    kind: str
    """audio, video or application."""
    direction: str
    setup: str | None
    """DTLS: active, passive or actpass; none where it is not said."""


@dataclass(frozen=True, slots=True)
class TrickledCandidate:
    """A candidate of a fragment."""

    mid: str | None
    line: str
    """As in SDP, without ``a=candidate:``."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A trickled fragment (RFC 8840, 9)."""

    ufrag: str | None
    candidates: tuple[TrickledCandidate, ...]
    is_end: bool
    """Whether no more candidates will come."""


def read_offer(text: str) -> tuple[MediaSection, ...]:
    """Return the media sections of an offer after checking that it can be served.

    Raises:
        InvalidField: it is no SDP, or has not exactly one audio track that sends.
    """
    if not text.startswith("v=0"):
        raise InvalidField("the offer is not SDP: it begins with 'v=0'", field="sdp")
    session, *blocks = re.split(r"^m=", text, flags=re.MULTILINE)
    default = _attributes(session)
    sections = tuple(_read_section(block, default) for block in blocks)
    audio = [section for section in sections if section.kind == "audio"]
    if len(audio) != 1:
        raise InvalidField(
            f"the offer has {len(audio)} audio sections; send exactly one audio track", field="sdp"
        )
    if audio[0].direction not in ("sendonly", "sendrecv"):
        raise InvalidField(
            f"the offer's audio is {audio[0].direction!r}; offer it as 'sendonly'", field="sdp"
        )
    return sections


def read_fragment(text: str) -> Fragment:
    """Return what a trickled fragment says.

    Raises:
        InvalidField: it is none.
    """
    mid: str | None = None
    ufrag: str | None = None
    candidates: list[TrickledCandidate] = []
    is_end = False
    for line in filter(None, (each.strip() for each in text.splitlines())):
        if not re.match(r"[a-z]=", line):
            raise InvalidField(f"{line[:60]!r} is not a line of SDP", field="sdp")
        name, _, value = line[2:].partition(":")
        if line.startswith("m="):
            mid = None
        elif name == "mid":
            mid = value
        elif name == "ice-ufrag":
            ufrag = value
        elif name == "candidate":
            candidates.append(TrickledCandidate(mid, value))
        elif name == "end-of-candidates":
            is_end = True
    if ufrag is None and not candidates and not is_end:
        raise InvalidField("the fragment names no candidate", field="sdp")
    return Fragment(ufrag, tuple(candidates), is_end)


def find_ufrag(text: str) -> str | None:
    """Return the first ICE user fragment of a description."""
    found = re.search(r"^a=ice-ufrag:(\S+)", text, flags=re.MULTILINE)
    return found[1] if found else None


def _attributes(block: str) -> dict[str, str]:
    lines = [line[2:].strip() for line in block.splitlines() if line.startswith("a=")]
    return {line.partition(":")[0]: line.partition(":")[2] for line in lines}


def _read_section(block: str, default: dict[str, str]) -> MediaSection:
    own = _attributes(block)
    direction = next((each for each in _DIRECTIONS if each in own), None)
    direction = direction or next((each for each in _DIRECTIONS if each in default), "sendrecv")
    return MediaSection(block.split(" ")[0], direction, own.get("setup", default.get("setup")))


__all__ = [
    "MAX_SDP_BYTES",
    "Fragment",
    "MediaSection",
    "TrickledCandidate",
    "find_ufrag",
    "read_fragment",
    "read_offer",
]
