"""What the audio of a stream is: told by its first bytes where the client does not say it.

Also Opus packets without a container: put into Ogg pages here, since that is what the server's
decoder reads. Synchronous and cheap; knows nothing of APIs or sessions.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast, get_args

from stream_protocol.messages import (
    CLOCK_RATE,
    ChannelMode,
    ClientMessage,
    Encoding,
    Endpointing,
    SampleRate,
    Start,
    Stop,
)
from stream_server.container import ogg_checksum
from stream_server.errors import BadAudio
from stream_server.pcm import PcmEncoding, parse_wav, sniff

_MAX_PACKET: Final = 255 * 255
"""Bytes of a packet that one Ogg page can hold."""
_SERIAL: Final = 1
_RATES: Final = get_args(SampleRate)
_WIDTHS: Final = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
"""Bytes of a sample."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What the bytes of a stream are."""

    encoding: Encoding
    sample_rate: int = 16_000
    """Hertz; means nothing for containers."""
    channels: int = 1
    """1 or 2; means nothing for containers."""

    def start(
        self,
        *,
        endpointing: Endpointing,
        language: str | None,
        partial_interval_ms: int,
        channel_mode: ChannelMode = "mix",
    ) -> Start:
        """Return the message that opens a session for this audio, with word times."""
        return Start(
            encoding=self.encoding,
            sample_rate=cast(SampleRate, self.sample_rate),
            channels=self.channels,
            channel_mode=channel_mode,
            language=language,
            partial_interval_ms=partial_interval_ms,
            words=True,
            endpointing=endpointing,
        )


@dataclass(frozen=True, slots=True)
class Announced:
    """What a client says of its audio before it sends any."""

    format: AudioFormat | None
    """None is a container that says it itself, or packets."""
    is_packets: bool = False
    """Whether each message may be an Opus packet without a container."""
    channels: int = 1
    """Of packets."""


class Sniffer:
    """Finds out what a stream is from its first bytes."""

    def __init__(self) -> None:
        self._head = b""

    def feed(self, data: bytes) -> tuple[AudioFormat, bytes] | None:
        """Return what the stream is and its bytes so far; none where more are needed.

        Raises:
            BadAudio: it is nothing that can be decoded while it arrives.
        """
        self._head += data
        kind = sniff(self._head)
        if kind is None:
            return None
        match kind:
            case "Ogg":
                return AudioFormat("ogg"), self._head
            case "WebM":
                return AudioFormat("webm"), self._head
            case "WAV":
                return self._wav()
            case "":
                raise BadAudio(
                    "the stream does not begin as WAV, Ogg or WebM do: name its encoding and "
                    "sample rate, or send the container from its first byte on"
                )
        raise BadAudio(
            f"{kind} is not decoded while it arrives: send WAV, Ogg Opus, WebM or raw samples, or "
            "upload the file"
        )

    def _wav(self) -> tuple[AudioFormat, bytes] | None:
        header = parse_wav(self._head)
        if header is None:
            return None
        if header.encoding not in get_args(PcmEncoding):
            raise BadAudio(
                f"the WAV stream holds {header.encoding}: send 16-bit or 32-bit float samples, "
                "mu-law or A-law"
            )
        if header.sample_rate not in _RATES or header.channels not in (1, 2):
            raise BadAudio(
                f"the WAV stream has {header.sample_rate} Hz and {header.channels} channels; "
                f"allowed are {', '.join(map(str, _RATES))} Hz and 1 or 2 channels"
            )
        encoding = cast(Encoding, header.encoding)
        return AudioFormat(encoding, header.sample_rate, header.channels), self._head


class OpusPackets:
    """Opus packets, each a message of its own, as an Ogg stream (RFC 3533, RFC 7845).

    Args:
        channels: 1 or 2.
    """

    def __init__(self, channels: int = 1) -> None:
        self._channels = channels
        self._sequence = 0

    def feed(self, packet: bytes) -> bytes:
        """Return the pages that carry ``packet``.

        Raises:
            BadAudio: it is larger than any packet.
        """
        if len(packet) >= _MAX_PACKET:
            raise BadAudio(
                f"an Opus packet has {len(packet)} bytes: send each packet in a message of its own"
            )
        pages = b""
        if not self._sequence:
            head = struct.pack("<8sBBHIHB", b"OpusHead", 1, self._channels, 0, 48_000, 0, 0)
            pages = self._page(head, 0x02) + self._page(b"OpusTags" + bytes(8), 0)
        return pages + self._page(packet, 0)

    def _page(self, packet: bytes, flags: int) -> bytes:
        lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        head = struct.pack("<4sBBqIII", b"OggS", 0, flags, 0, _SERIAL, self._sequence, 0)
        page = head + bytes([len(lacing)]) + lacing + packet
        self._sequence += 1
        return page[:22] + struct.pack("<I", ogg_checksum(page)) + page[26:]


class Inlet:
    """A client's audio as a session takes it: ``Start`` first, as soon as it can be made.

    Args:
        announced: what the client said of its audio.
        make_start: makes the session's first message for audio of a format.
    """

    def __init__(self, announced: Announced, make_start: Callable[[AudioFormat], Start]) -> None:
        self._announced = announced
        self._make_start = make_start
        self._sniffer = Sniffer()
        self._packets: OpusPackets | None = None
        self._bytes = 0
        self._format: AudioFormat | None = None

    @property
    def format(self) -> AudioFormat | None:
        """What the audio is; none before that is known."""
        return self._format

    @property
    def samples(self) -> int | None:
        """Samples handed on so far, where the bytes say it: not of containers."""
        width = _WIDTHS.get(self._format.encoding) if self._format else None
        if self._format is None or width is None:
            return None
        frames = self._bytes // (width * self._format.channels)
        return frames * CLOCK_RATE // self._format.sample_rate

    def open(self) -> list[ClientMessage | bytes]:
        """Return ``Start`` where the client has said what it needs."""
        return [] if self._announced.format is None else [self._begin(self._announced.format)]

    def feed(self, data: bytes) -> list[ClientMessage | bytes]:
        """Take a message of audio and return what the session takes of it.

        Raises:
            BadAudio: it is nothing that can be decoded while it arrives.
        """
        self._bytes += len(data)
        if self._packets is not None:
            return [self._packets.feed(data)]
        if self._format is not None:
            return [data]
        if self._announced.is_packets and not data.startswith(b"OggS"):
            self._packets = OpusPackets(self._announced.channels)
            return [self._begin(AudioFormat("ogg")), self._packets.feed(data)]
        found = self._sniffer.feed(data)
        return [] if found is None else [self._begin(found[0]), found[1]]

    def stop(self) -> list[ClientMessage | bytes]:
        """Return ``Stop``, after a ``Start`` where no audio came to make one for."""
        begin = [self._begin(AudioFormat("pcm_s16le"))] if self._format is None else []
        return [*begin, Stop()]

    def _begin(self, audio: AudioFormat) -> Start:
        self._format = audio
        return self._make_start(audio)


__all__ = ["Announced", "AudioFormat", "Inlet", "OpusPackets", "Sniffer"]
