"""How services want live captions over HTTP: the address, the number and the body of each post.

Zoom: "Closed Captioning with REST API", its help page 115002212983. YouTube: "Closed Captions over
HTTP for YouTube Live Streams", its help page 6077032. Each has an address for one meeting or
broadcast, which is as good as a password. Both take ``text/plain`` with a counter ``seq`` in the
query, which goes up by one with each caption and not when one is posted again.

This file knows no socket, clock or thread.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol
from urllib.parse import urlencode, urlsplit, urlunsplit

from stream_client.errors import OutputError

CONTENT_TYPE = "text/plain; charset=utf-8"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CaptionForm(Protocol):
    """The form of one service."""

    name: str
    number_address: str
    """Where the number of the last post is asked for; nothing where it cannot be."""

    def address(self, number: int) -> str:
        """Return where the post with this number, counted from 1, goes."""

    def body(self, lines: tuple[str, ...], spoken: float) -> str:
        """Return what is posted.

        Args:
            lines: of one caption.
            spoken: seconds since 1970 on this machine's clock, at which its first word began.
        """

    def read_answer(self, text: str, now: float) -> None:
        """Take the body of the answer to a post, which came at ``now`` (seconds since 1970)."""


class ZoomForm:
    """Zoom's.

    Args:
        url: the address that the host of the meeting copies ("Copy the API token").
        language: with its country, as ``en-US``.

    Raises:
        OutputError: ``url`` is none.
    """

    name = "Zoom"

    def __init__(self, url: str, language: str = "en-US") -> None:
        self._url = _check(url, self.name)
        self._language = language
        parts = urlsplit(self._url)
        self.number_address = urlunsplit(parts._replace(path=f"{parts.path}/seq"))

    def address(self, number: int) -> str:
        """Return where the post with this number, counted from 1, goes."""
        return _with_query(self._url, seq=str(number), lang=self._language)

    def body(self, lines: tuple[str, ...], spoken: float) -> str:
        """Return the text; Zoom joins posts to one line until a line break comes."""
        return "\n".join(lines) + "\n"

    def read_answer(self, text: str, now: float) -> None:
        """Need nothing of it: captions appear when they come."""


class YouTubeForm:
    """YouTube's.

    Captions are placed by time. YouTube answers each post with its own clock, and its page advises
    to go by that: the difference to ours is taken into account from the second post on.

    Args:
        url: the caption ingestion URL of the broadcast.

    Raises:
        OutputError: ``url`` is none.
    """

    name = "YouTube"
    number_address = ""

    def __init__(self, url: str) -> None:
        self._url = _check(url, self.name)
        self._ahead = 0.0
        """Seconds by which YouTube's clock is ahead of this machine's."""

    def address(self, number: int) -> str:
        """Return where the post with this number, counted from 1, goes."""
        return _with_query(self._url, seq=str(number))

    def body(self, lines: tuple[str, ...], spoken: float) -> str:
        """Return the time, and the text on one line."""
        return f"{_stamp(spoken + self._ahead)}\n{'<br>'.join(lines)}\n"

    def read_answer(self, text: str, now: float) -> None:
        """Compare the clocks, if the answer has a time."""
        try:
            theirs = datetime.fromisoformat(text.strip()).replace(tzinfo=UTC)
        except ValueError:
            return
        self._ahead = (theirs - _EPOCH).total_seconds() - now


def _check(url: str, name: str) -> str:
    """Return the address; its text is not repeated in an error, as it opens the meeting."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OutputError(f"{name}'s caption address should begin with https:// and name a host")
    return url


def _with_query(url: str, **more: str) -> str:
    parts = urlsplit(url)
    # The service signed what is there: it stays as it is, to the letter.
    query = "&".join(part for part in (parts.query, urlencode(more)) if part)
    return urlunsplit(parts._replace(query=query, fragment=""))


def _stamp(seconds: float) -> str:
    """Return UTC to the millisecond, without a zone."""
    moment = _EPOCH + timedelta(milliseconds=round(seconds * 1000))
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds")


__all__ = ["CONTENT_TYPE", "CaptionForm", "YouTubeForm", "ZoomForm"]
