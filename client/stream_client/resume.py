"""What must be sent, and what must be sent again after a break: a log of audio and control.

Pure bookkeeping: no asyncio, no sockets, no clock. The owner appends audio and control messages,
takes items to send one at a time, and reports what the server said. Audio stays in the log until
the server has given a final for it. :meth:`SendLog.rewind` moves the place of sending back to the
first audio that no final covers and gives the ``start`` message which tells any server so.

Offsets are bytes from the first byte appended. Positions are samples at 16 kHz on the media clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import msgspec

from stream_protocol.messages import (
    CLOCK_RATE,
    Ack,
    Configure,
    Encoding,
    Final,
    Flush,
    Flushed,
    Partial,
    Resume,
    ServerMessage,
    SpeechEnded,
    SpeechStarted,
    Start,
    Stop,
)

_WIDTHS: dict[Encoding, int] = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}

SETTLED = 30 * CLOCK_RATE
"""Samples behind the newest acknowledged one up to which speech may not have been announced yet."""
PRE_ROLL = CLOCK_RATE
"""Samples kept before the announced start of speech: more than any server's own pre-roll."""
ONSET = 3 * CLOCK_RATE
"""Samples that speech on another channel may run before it is announced."""

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
    """Everything that a stream sends, from the first audio that no final covers.

    Args:
        start: The message that opened the stream; its own ``resume`` sets where positions begin.
        capacity_seconds: Seconds of audio kept at most, so that a long silence, for which no final
            ever comes, does not grow the log. Speech which still waits for its final is never
            given up: the log is then full until the final comes.
        keep: Whether what has been sent is kept. Without it, or with a container, the stream
            cannot be resumed.
    """

    def __init__(self, start: Start, *, capacity_seconds: float = 120.0, keep: bool = True) -> None:
        self._start = start
        self._format = AudioFormat.of(start)
        self._keep = keep and self._format is not None
        rate = self._format.bytes_per_second if self._format else 0
        self._capacity = int(capacity_seconds * rate) or 1 << 20
        self._origin = start.resume.position if start.resume else 0
        self._next_segment = start.resume.segment if start.resume else 0
        self._data = bytearray()
        self._base = 0  # offset of the first byte in _data
        self._cursor = 0  # offset of the next byte to send
        self._controls: list[_Placed] = []
        self._next_control = 0  # index of the next control message to send
        channels = start.channels if start.channel_mode == "split" else 1
        self._covered = dict.fromkeys(range(channels), self._origin)
        self._replay_before: dict[int, int] = {}  # split channels after a rewind only
        self._pending: dict[tuple[int, int], int] = {}  # (channel, segment) -> start of speech
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
        self._shed_silence()

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

    def receive(self, message: ServerMessage) -> bool:
        """Take note of what the server said; return whether the message is news.

        It is not where a resumed stream of split channels had to go back behind finals that one
        channel has already got.
        """
        match message:
            case Ack(samples=samples):
                self._acked = max(self._acked, samples)
                self._shed_silence()
            case SpeechStarted(channel=channel, at=at):
                self._pending[channel, message.segment] = at
                return at >= self._replay_before.get(channel, 0)
            case SpeechEnded(channel=channel, at=at):
                return at >= self._replay_before.get(channel, 0)
            case Partial(channel=channel, start=start, end=end):
                return (start + end) // 2 >= self._replay_before.get(channel, 0)
            case Final():
                return self._receive_final(message)
            case Flushed():
                self._receive_flushed(message)
        return True

    def rewind(self, token: str) -> Start:
        """Go back to the first audio that no final covers.

        Args:
            token: The resume token of the session that broke.

        Returns:
            The message that opens the next connection.
        """
        if self._format is None or not self._keep:
            raise ValueError("this stream keeps no audio to resume from")
        floor = min(max(self._offset(self._floor()), self._base), self._aligned_end())
        self._drop(floor)
        self._cursor = floor
        self._next_control = 0
        self._pending.clear()
        # One channel goes back to its own last final: all that follows is news.
        self._replay_before = dict(self._covered) if len(self._covered) > 1 else {}
        position = self._position(floor)
        self._acked = position
        return msgspec.structs.replace(
            self._start, resume=Resume(token=token, position=position, segment=self._next_segment)
        )

    def _receive_final(self, final: Final) -> bool:
        channel = final.channel
        is_news = (final.start + final.end) // 2 >= self._replay_before.get(channel, 0)
        for key in [key for key in self._pending if key[0] == channel and key[1] <= final.segment]:
            del self._pending[key]
        self._covered[channel] = max(self._covered.get(channel, 0), final.end)
        self._next_segment = max(self._next_segment, final.segment + 1)
        self._drop_covered()
        return is_news

    def _receive_flushed(self, flushed: Flushed) -> None:
        for channel, covered in self._covered.items():
            self._covered[channel] = max(covered, flushed.position)
        self._pending = {key: at for key, at in self._pending.items() if at >= flushed.position}
        # Answers come in the order of the requests.
        for index, placed in enumerate(self._controls[: self._next_control]):
            if isinstance(placed.message, Flush):
                del self._controls[index]
                self._next_control -= 1
                break
        self._drop_covered()

    def _floor(self) -> int:
        """Samples up to which every channel is done with."""
        if len(self._covered) == 1:
            return next(iter(self._covered.values()))
        newest = max(self._covered.values())
        floors = []
        for channel, covered in self._covered.items():
            waiting = [at for (of, _), at in self._pending.items() if of == channel]
            # A channel where nobody speaks must not hold the others back.
            quiet_until = min(waiting) - PRE_ROLL if waiting else newest - ONSET
            floors.append(max(covered, quiet_until))
        return min(floors)

    def _drop_covered(self) -> None:
        if self._keep and self._format is not None:
            unit = self._format.unit_bytes
            self._drop(min(self._offset(self._floor()), self._cursor // unit * unit))

    def _shed_silence(self) -> None:
        """Over the capacity, give up old audio in which the server heard no speech."""
        excess = len(self._data) - self._capacity
        if excess <= 0 or not self._keep or self._format is None:
            return
        limit = self._acked - SETTLED
        if self._pending:
            limit = min(limit, min(self._pending.values()) - PRE_ROLL)
        # Whole units only, rounded up, so that what is left begins at an exact position.
        unit = self._format.unit_bytes
        wanted = -(-(self._base + excess) // unit) * unit
        self._drop(min(wanted, self._offset(limit), self._cursor // unit * unit))

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

    def _aligned_end(self) -> int:
        unit = self._format.unit_bytes if self._format else 1
        return self._end // unit * unit

    def _offset(self, position: int) -> int:
        return self._format.offset(position - self._origin) if self._format else 0

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


__all__ = ["ONSET", "PRE_ROLL", "SETTLED", "AudioFormat", "Control", "SendLog"]
