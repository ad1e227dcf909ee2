"""What must be sent, and what must be sent again after a break: a log of audio and control.

Pure bookkeeping: no asyncio, no sockets, no clock. The owner appends audio and control messages,
takes items to send one at a time, and reports what the server said. Audio stays in the log until a
final covers it or nobody spoke in it, and ``LEAD`` longer: a server that hears so much from before
the break decides about the rest as the broken one would have. :meth:`SendLog.rewind` moves the
place of sending back there and gives the ``start`` message which tells any server so.

Offsets are bytes from the first byte appended. Positions are samples at 16 kHz on the media clock.
``client/stream_client/web/resume.js`` does the same; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import msgspec

from stream_protocol.messages import (
    CLOCK_RATE,
    RESUME_GRID,
    RESUME_LEAD,
    Ack,
    Configure,
    Encoding,
    Final,
    Flush,
    Flushed,
    Resume,
    ResumeChannel,
    ServerMessage,
    SpeechEnded,
    SpeechStarted,
    Start,
    Stop,
)

_WIDTHS: dict[Encoding, int] = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}

LEAD = RESUME_LEAD
"""Samples sent again before those that no final covers."""
QUIET = 4 * CLOCK_RATE
"""Samples before the newest acknowledged one up to which all speech has been announced: more than
the longest ``min_speech_ms``, and the pre-roll."""
PRE_ROLL = CLOCK_RATE
"""Samples before the announced start of speech that its segment may begin at."""

Control = Flush | Configure | Stop


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Bytes to positions and back, for one PCM format.

    Only every ``unit_bytes`` does a whole frame fall on a whole sample of the media clock (at
    44.1 kHz every 10 ms); a stream is resumed at such a place only, so that no position is rounded.
    """

    unit_bytes: int
    unit_samples: int
    bytes_per_second: int

    @classmethod
    def of(cls, start: Start) -> AudioFormat | None:
        """Return the format of a stream; none for containers, whose bytes have no positions."""
        width = _WIDTHS.get(start.encoding)
        if width is None:
            return None
        common = gcd(start.sample_rate, CLOCK_RATE)
        frame = width * start.channels
        return cls(
            start.sample_rate // common * frame,
            CLOCK_RATE // common,
            start.sample_rate * frame,
        )

    def samples(self, offset: int) -> int:
        """Samples from the first byte to ``offset``, rounded down."""
        return offset * self.unit_samples // self.unit_bytes

    def offset(self, samples: int) -> int:
        """Bytes up to the last place at or before ``samples`` where a stream can be resumed."""
        return max(samples, 0) // self.unit_samples * self.unit_bytes


@dataclass(slots=True)
class _Placed:
    offset: int
    message: Control


class SendLog:
    """Everything that a stream sends, from the first audio that may have to be sent again.

    Args:
        start: The message that opened the stream; its own ``resume`` sets where positions begin.
        capacity_seconds: Seconds of audio beyond the lead after which the log is full: until the
            server has read, or a final has come. Nothing in it is ever given up.
        keep: Whether what has been sent is kept. Without it, or with a container, the stream
            cannot be resumed.
    """

    def __init__(self, start: Start, *, capacity_seconds: float = 120.0, keep: bool = True) -> None:
        self._start = start
        self._format = AudioFormat.of(start)
        self._keep = keep and self._format is not None
        rate = self._format.bytes_per_second if self._format else 0
        self._capacity = int(capacity_seconds * rate) or 1 << 20
        if self._keep and self._format is not None:
            self._capacity += self._format.offset(LEAD)
        self._origin = start.resume.position if start.resume else 0
        self._next_segment = start.resume.segment if start.resume else 0
        self._data = bytearray()
        self._base = 0  # offset of the first byte in _data
        self._cursor = 0  # offset of the next byte to send
        self._controls: list[_Placed] = []
        self._next_control = 0  # index of the next control message to send
        places = dict(enumerate(self._begin()))
        self._covered = {channel: place.covered for channel, place in places.items()}
        # (channel, position) where speech was cut and went on
        self._cuts = {(channel, each.covered) for channel, each in places.items() if each.speaking}
        self._pending: dict[tuple[int, int], int] = {}  # (channel, segment) -> start of speech
        self._ended: dict[int, int] = {}  # channel -> end of the newest speech
        self._acked = self._origin

    @property
    def can_resume(self) -> bool:
        """Whether :meth:`rewind` works."""
        return self._keep

    @property
    def is_full(self) -> bool:
        """Whether more audio must wait: for the server to read, or for finals to come."""
        return len(self._data) > self._capacity

    @property
    def unsent_bytes(self) -> int:
        """Bytes of audio that have not been taken yet."""
        return self._end - self._cursor

    @property
    def kept_bytes(self) -> int:
        """Bytes of audio in the log."""
        return len(self._data)

    @property
    def position(self) -> int:
        """Samples; the end of the audio appended so far. 0 for containers."""
        return self._position(self._end)

    @property
    def sent_position(self) -> int:
        """Samples; the end of the audio taken so far. 0 for containers."""
        return self._position(self._cursor)

    @property
    def acked(self) -> int:
        """Samples; how far the server has acknowledged."""
        return self._acked

    @property
    def _end(self) -> int:
        return self._base + len(self._data)

    def append_audio(self, data: bytes) -> None:
        """Add audio at the end."""
        self._data += data

    def append_control(self, message: Control) -> None:
        """Add a control message behind the audio appended so far."""
        self._controls.append(_Placed(self._end, message))

    def take(self, max_bytes: int) -> bytes | Control | None:
        """Return what is to be sent next, in order, and move on; none if all has been sent."""
        limit = self._end
        if self._next_control < len(self._controls):
            placed = self._controls[self._next_control]
            if placed.offset <= self._cursor:
                self._next_control += 1
                return placed.message
            limit = placed.offset
        first = self._cursor - self._base
        audio = bytes(self._data[first : first + min(max_bytes, limit - self._cursor)])
        if not audio:
            return None
        self._cursor += len(audio)
        if not self._keep:
            self._drop(self._cursor)
        return audio

    def receive(self, message: ServerMessage) -> None:
        """Take note of what the server said."""
        match message:
            case Ack(samples=samples):
                self._acked = max(self._acked, samples)
                self._drop_covered()
            case SpeechStarted(channel=channel, at=at):
                self._pending[channel, message.segment] = at
                # A cut ends speech where the next begins; after a pause its segment ends later.
                if self._ended.pop(channel, None) == at:
                    self._cuts.add((channel, at))
            case SpeechEnded(channel=channel, at=at):
                self._ended[channel] = at
            case Final():
                self._receive_final(message)
            case Flushed():
                self._receive_flushed()

    def rewind(self, token: str) -> Start:
        """Go back to before the first audio that no final covers.

        Args:
            token: The resume token of the session that broke.

        Returns:
            The message that opens the next connection.
        """
        if self._format is None or not self._keep:
            raise ValueError("this stream keeps no audio to resume from")
        places = [self._place(channel) for channel in sorted(self._covered)]
        for channel, place in enumerate(places):
            self._covered[channel] = place.covered
        self._drop(self._lead_offset(places))
        self._cursor = self._base
        self._next_control = 0
        self._pending.clear()
        self._ended.clear()
        position = self._position(self._base)
        self._acked = position
        return msgspec.structs.replace(
            self._start, resume=Resume(token, position, self._next_segment, places)
        )

    def _begin(self) -> list[ResumeChannel]:
        """Return where each channel of the stream begins."""
        start = self._start
        if start.resume is not None and start.resume.channels is not None:
            return start.resume.channels
        channels = start.channels if start.channel_mode == "split" else 1
        return [ResumeChannel(self._origin)] * channels

    def _receive_final(self, final: Final) -> None:
        channel = final.channel
        for key in [key for key in self._pending if key[0] == channel and key[1] <= final.segment]:
            del self._pending[key]
        self._covered[channel] = max(self._covered.get(channel, 0), final.end)
        self._cuts = {cut for cut in self._cuts if cut[0] != channel or cut[1] >= final.end}
        self._next_segment = max(self._next_segment, final.segment + 1)
        self._drop_covered()

    def _receive_flushed(self) -> None:
        # Answers come in the order of the requests.
        for index, placed in enumerate(self._controls[: self._next_control]):
            if isinstance(placed.message, Flush):
                del self._controls[index]
                self._next_control -= 1
                break

    def _place(self, channel: int) -> ResumeChannel:
        """Return from where on a channel must be transcribed again."""
        covered = self._covered[channel]
        waiting = [at for (of, _), at in self._pending.items() if of == channel]
        if (channel, covered) in self._cuts:
            return ResumeChannel(covered, speaking=True)
        silent_until = min(waiting) - PRE_ROLL if waiting else self._acked - QUIET
        steps = max(silent_until - self._origin, 0) // RESUME_GRID
        return ResumeChannel(max(covered, self._origin + steps * RESUME_GRID))

    def _lead_offset(self, places: Sequence[ResumeChannel]) -> int:
        """Return from where on audio is needed to go on at ``places``."""
        covered = min(place.covered for place in places) - self._origin
        return max(self._base, self._offset_of_grid(covered - LEAD))

    def _offset_of_grid(self, samples: int) -> int:
        assert self._format is not None
        # Where the end of all audio is covered, the last step of the grid may be beyond it.
        end = self._format.samples(self._end)
        return self._format.offset(max(min(samples, end), 0) // RESUME_GRID * RESUME_GRID)

    def _drop_covered(self) -> None:
        if self._keep and self._format is not None:
            places = [self._place(channel) for channel in self._covered]
            sent = self._offset_of_grid(self._format.samples(self._cursor))
            self._drop(min(self._lead_offset(places), sent))

    def _drop(self, offset: int) -> None:
        """Forget everything before ``offset``."""
        if offset > self._base:
            del self._data[: offset - self._base]
            self._base = offset
        # A sent ``configure`` before that place becomes part of how the stream is opened again.
        while self._next_control and self._controls:
            placed = self._controls[0]
            if placed.offset > offset or not isinstance(placed.message, Configure):
                break
            self._start = _configured(self._start, placed.message)
            del self._controls[0]
            self._next_control -= 1

    def _position(self, offset: int) -> int:
        return self._origin + self._format.samples(offset) if self._format else 0


def _configured(start: Start, change: Configure) -> Start:
    """Return ``start`` as if the stream had been opened with the change."""
    changes = {
        name: value
        for name in change.__struct_fields__
        if (value := getattr(change, name)) is not None
    }
    return msgspec.structs.replace(start, **changes)


__all__ = ["LEAD", "PRE_ROLL", "QUIET", "AudioFormat", "Control", "SendLog"]
