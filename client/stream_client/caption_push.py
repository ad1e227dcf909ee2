"""Finals as captions of a meeting or a broadcast elsewhere, posted line by line over HTTP.

A thread of its own posts, so that a slow service keeps neither the audio nor other views waiting.
Captions that a service does not take in time are given up: late ones would only hold up the next.
"""

from __future__ import annotations

import queue
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError

from stream_client.caption_forms import CONTENT_TYPE, CaptionForm
from stream_client.captions import speaker_of
from stream_protocol.messages import CLOCK_RATE, Final, Partial, ServerMessage
from stream_protocol.subtitles import Cue, make_cues

TRYING_SECONDS = 5.0
"""For how long a caption is posted again, as Zoom's page advises."""
_FIRST_WAIT = 0.2
"""Seconds at most before the second try, doubled with each; by chance down to half of it."""
_WAITING = 64
"""Captions that may wait; beyond it the oldest is given up."""
_CLOSE_SECONDS = 2 * TRYING_SECONDS
"""What the last captions get."""


@dataclass(frozen=True, slots=True)
class _Caption:
    lines: tuple[str, ...]
    spoken: float
    """Seconds since 1970."""


class CaptionPush:
    """A view that posts each final to a service.

    Args:
        form: how the service wants it.
        speakers: the names of who speaks on channel 0, 1, ….
        report: told in a line what the service did not take; from another thread.
    """

    def __init__(
        self, form: CaptionForm, speakers: Sequence[str], report: Callable[[str], None]
    ) -> None:
        self._form = form
        self._speakers = speakers
        self._report = report
        self._waiting: queue.Queue[_Caption | None] = queue.Queue(_WAITING)
        self._began: float | None = None
        self.lost = 0
        """Captions that the service did not get."""
        self._thread = threading.Thread(target=self._run, name=f"captions to {form.name}")
        self._thread.daemon = True
        self._thread.start()

    def show(self, message: ServerMessage) -> None:
        """Take the next message."""
        if not isinstance(message, Partial | Final):
            return
        # A message cannot come before its audio was spoken: the earliest tells best when that was.
        began = time.time() - message.end / CLOCK_RATE
        self._began = began if self._began is None else min(self._began, began)
        if not isinstance(message, Final):
            return
        for cue in self._cues(message):
            self._put(_Caption(cue.lines, self._began + cue.start / CLOCK_RATE))

    def close(self) -> None:
        """Post what is waiting, for a few seconds."""
        self._put(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self.lost += 1 + self._waiting.qsize()

    def _cues(self, final: Final) -> list[Cue]:
        name, text = speaker_of(final, self._speakers), final.text.strip()
        said = f"{name}: {text}" if name and text else text
        return make_cues(said, final.start, final.end, final.words or ())

    def _put(self, caption: _Caption | None) -> None:
        while True:
            try:
                self._waiting.put_nowait(caption)
                return
            except queue.Full:
                try:
                    self._waiting.get_nowait()
                    self.lost += 1
                except queue.Empty:
                    pass

    def _run(self) -> None:
        number = self._ask_number()
        while (caption := self._waiting.get()) is not None:
            number += 1
            problem = self._post(number, caption)
            if problem:
                self.lost += 1
                self._report(f"{self._form.name} did not take a caption: {problem}")

    def _ask_number(self) -> int:
        """Return the number of the last post that the service has, from a run before this one."""
        address = self._form.number_address
        if not address:
            return 0
        try:
            text = _read(urllib.request.Request(address), TRYING_SECONDS)
            return max(int(text), 0)
        except (OSError, HTTPException, ValueError):
            return 0  # a meeting that has had none, or is not reached: the first post will tell

    def _post(self, number: int, caption: _Caption) -> str:
        """Post a caption until it is taken or late; return what is wrong at last, if anything."""
        end = time.monotonic() + TRYING_SECONDS
        wait = _FIRST_WAIT
        while problem := self._try(number, caption, end - time.monotonic()):
            pause = wait * random.uniform(0.5, 1.0)
            if time.monotonic() + pause >= end:
                return problem
            time.sleep(pause)
            wait *= 2
        return ""

    def _try(self, number: int, caption: _Caption, seconds: float) -> str:
        body = self._form.body(caption.lines, caption.spoken)
        request = urllib.request.Request(
            self._form.address(number),
            data=body.encode(),
            headers={"Content-Type": CONTENT_TYPE},
            method="POST",
        )
        try:
            text = _read(request, max(seconds, 0.1))
        except HTTPError as error:
            with error:
                return f"HTTP status {error.code}"
        except (OSError, HTTPException) as error:
            return str(error) or type(error).__name__
        self._form.read_answer(text, time.time())
        return ""


def _read(request: urllib.request.Request, seconds: float) -> str:
    """Return the beginning of the body of a good answer."""
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        body: bytes = answer.read(1000)
    return body.decode("utf-8", "replace")


__all__ = ["TRYING_SECONDS", "CaptionPush"]
