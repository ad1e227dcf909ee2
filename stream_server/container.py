"""Opus packets out of a live WebM or Ogg byte stream, as browsers' MediaRecorder sends them.

Incremental and synchronous: each piece of bytes gives the packets that it completes, so a packet
is decoded as soon as its last byte is there, and there is no thread that a vanished client could
leave behind (``av.open`` on a live source blocks in ``read`` and would need one). Only what a
recorder writes is read: one Opus track, no lacing. Files of any other kind go to the upload
endpoint, which has all of FFmpeg.

Knows nothing of decoders, sample rates or sessions. Memory is bounded by one packet, or by one
description of the tracks.
"""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from stream_server.errors import BadAudio

_UPLOAD = "or upload the file to POST /v1/audio/transcriptions"
_MAX_PACKET = 65_536
"""Bytes; RFC 6716 allows 1275 for each frame, 48 frames at most."""
_MAX_TRACKS = 1_048_576
"""Bytes of the description of tracks."""


@dataclass(frozen=True, slots=True)
class OpusHead:
    """The identification header of an Opus stream (RFC 7845, 5.1)."""

    data: bytes
    channels: int


class PacketReader(ABC):
    """Bytes in, Opus packets out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[OpusHead | bytes]:
        """Return what ``data`` completes: a header wherever a stream begins, and its packets.

        Raises:
            BadAudio: it is not of this container, its audio is not Opus, or it is broken.
        """
        self._buffer += data
        output: list[OpusHead | bytes] = []
        while self._advance(output):
            pass
        return output

    @abstractmethod
    def _advance(self, output: list[OpusHead | bytes]) -> bool:
        """Take one unit of the container; false where more bytes are needed."""


def parse_opus_head(data: bytes, encoding: str) -> OpusHead:
    """Check an identification header.

    Raises:
        BadAudio: it is not one, or has more channels than a microphone.
    """
    if len(data) < 19 or not data.startswith(b"OpusHead") or data[8] & 0xF0:
        raise BadAudio(f"the {encoding} stream has a broken OpusHead; start the recorder again")
    channels, mapping = data[9], data[18]
    if mapping != 0 or channels not in (1, 2):
        raise BadAudio(
            f"the {encoding} stream has {channels} channels; 1 or 2 are allowed: "
            f"record in mono or stereo, {_UPLOAD}",
            field="$.channels",
        )
    return OpusHead(data, channels)


def _foreign(encoding: str, head: bytes) -> BadAudio:
    """Say what a stream is that does not begin as ``encoding`` does."""
    found = {
        b"OggS": "this is Ogg: announce encoding 'ogg'",
        b"\x1aE\xdf\xa3": "this is WebM: announce encoding 'webm'",
        b"RIFF": "this is WAV: send its samples and announce 'pcm_s16le'",
    }.get(head[:4], f"send what MediaRecorder gives, from its first byte on, {_UPLOAD}")
    return BadAudio(f"the audio does not begin as {encoding} does; {found}", field="$.encoding")


# --- WebM (RFC 8794 for EBML, RFC 9559 for Matroska) ---------------------------------------------

_EBML: Final = 0x1A45DFA3
_SEGMENT: Final = 0x18538067
_CLUSTER: Final = 0x1F43B675
_TRACKS: Final = 0x1654AE6B
_BLOCK_GROUP: Final = 0xA0
_SIMPLE_BLOCK: Final = 0xA3
_BLOCK: Final = 0xA1
_MASTERS: Final = frozenset({_SEGMENT, _CLUSTER, _BLOCK_GROUP})
_SKIPPED: Final = frozenset(
    # SeekHead, Info, Tags, Cues, Chapters, Attachments, Void, CRC-32
    {0x114D9B74, 0x1549A966, 0x1254C367, 0x1C53BB6B, 0x1043A770, 0x1941A469, 0xEC, 0xBF}
    # in a Cluster: Timestamp, PrevSize, Position, SilentTracks, EncryptedBlock
    | {0xE7, 0xAB, 0xA7, 0x5854, 0xAF}
    # in a BlockGroup: Duration, ReferenceBlock, DiscardPadding, Additions, State, Priority, Slices
    | {0x9B, 0xFB, 0x75A2, 0x75A1, 0xA4, 0xFA, 0x8E}
)
_TRACK_ENTRY: Final = 0xAE
_TRACK_NUMBER: Final = 0xD7
_CODEC_ID: Final = 0x86
_CODEC_PRIVATE: Final = 0x63A2
_DOC_TYPE: Final = 0x4282


def _vint(data: bytes | bytearray, at: int, *, keep_marker: bool) -> tuple[int, int] | None:
    """Return (value, bytes used), or none where more bytes are needed. -1 is the unknown size."""
    if at >= len(data):
        return None
    first = data[at]
    length = 9 - first.bit_length()
    if length > (4 if keep_marker else 8):
        raise BadAudio("the webm stream is broken: no element begins where one must")
    if at + length > len(data):
        return None
    value = int.from_bytes(data[at : at + length], "big")
    if keep_marker:
        return value, length
    value &= (1 << 7 * length) - 1
    return (-1 if value == (1 << 7 * length) - 1 else value), length


def _children(data: bytes) -> list[tuple[int, bytes]]:
    """Return (id, payload) of each element of a master that is here as a whole."""
    children, at = [], 0
    while at < len(data):
        element = _vint(data, at, keep_marker=True)
        size = _vint(data, at + element[1], keep_marker=False) if element else None
        if element is None or size is None:
            raise BadAudio("the webm stream is broken: an element outgrows its parent")
        at += element[1] + size[1]
        if size[0] < 0 or at + size[0] > len(data):
            raise BadAudio("the webm stream is broken: an element outgrows its parent")
        children.append((element[0], data[at : at + size[0]]))
        at += size[0]
    return children


class WebmReader(PacketReader):
    """Opus packets of a WebM byte stream.

    Nesting is not followed: a cluster of unknown length (live recorders write these) ends where
    the next begins, and every element below the masters names itself. A second EBML header starts
    a new stream, as when a page joins the output of two recorders.
    """

    def __init__(self) -> None:
        super().__init__()
        self._skip = 0
        self._track: int | None = None
        self._begun = False

    def _advance(self, output: list[OpusHead | bytes]) -> bool:
        """Take one element; false where more bytes are needed."""
        buffer = self._buffer
        if self._skip:
            taken = min(self._skip, len(buffer))
            del buffer[:taken]
            self._skip -= taken
        if self._skip or not buffer:
            return False
        if not self._begun:
            if not b"\x1aE\xdf\xa3".startswith(bytes(buffer[:4])):
                raise _foreign("webm", bytes(buffer[:4]))
            if len(buffer) < 4:
                return False
        element = _vint(buffer, 0, keep_marker=True)
        size = _vint(buffer, element[1], keep_marker=False) if element else None
        if element is None or size is None:
            return False
        self._begun = True
        return self._take(element[0], element[1] + size[1], size[0], output)

    def _take(self, name: int, header: int, size: int, output: list[OpusHead | bytes]) -> bool:
        if name in _MASTERS:
            del self._buffer[:header]
            return True
        if size < 0:
            raise BadAudio("the webm stream is broken: an element other than a cluster is endless")
        is_block = name in (_BLOCK, _SIMPLE_BLOCK)
        if is_block and len(self._buffer) < header + min(size, 8):
            return False  # the track's number is not here yet
        if name in _SKIPPED or (is_block and self._is_of_other_track(header)):
            del self._buffer[:header]
            self._skip = size
            return True
        if not is_block and name not in (_EBML, _TRACKS):
            raise BadAudio(f"the webm stream is broken: {name:#x} is no element of WebM")
        if size > (_MAX_TRACKS if name == _TRACKS else _MAX_PACKET):
            raise BadAudio(f"the webm stream is broken: an element claims {size} bytes")
        if len(self._buffer) < header + size:
            return False
        payload = bytes(self._buffer[header : header + size])
        del self._buffer[: header + size]
        if name == _EBML:
            self._check_doc_type(payload)
        elif name == _TRACKS:
            output.append(self._choose_track(payload))
        else:
            self._read_block(payload, output)
        return True

    def _is_of_other_track(self, header: int) -> bool:
        """Whether a block is not ours, as a video's; those may be larger than any packet."""
        number = _vint(self._buffer, header, keep_marker=False)
        return number is not None and number[0] != self._track

    def _check_doc_type(self, payload: bytes) -> None:
        self._track = None
        for name, value in _children(payload):
            if name == _DOC_TYPE and value.rstrip(b"\0") not in (b"webm", b"matroska"):
                raise BadAudio("the audio is EBML but not WebM", field="$.encoding")

    def _choose_track(self, payload: bytes) -> OpusHead:
        codecs = []
        for name, entry in _children(payload):
            if name != _TRACK_ENTRY:
                continue
            fields = dict(_children(entry))
            codec = fields.get(_CODEC_ID, b"").rstrip(b"\0").decode("ascii", "replace")
            codecs.append(codec)
            if codec == "A_OPUS":
                head = parse_opus_head(fields.get(_CODEC_PRIVATE, b""), "webm")
                self._track = int.from_bytes(fields.get(_TRACK_NUMBER, b"\1"), "big")
                return head
        raise BadAudio(
            f"the webm stream holds {', '.join(codecs) or 'no track'} and no Opus: record as "
            f"'audio/webm;codecs=opus', {_UPLOAD}",
            field="$.encoding",
        )

    def _read_block(self, payload: bytes, output: list[OpusHead | bytes]) -> None:
        number = _vint(payload, 0, keep_marker=False)
        at = number[1] + 3 if number else 0
        if number is None or len(payload) < at:
            raise BadAudio("the webm stream is broken: a block without a header")
        if payload[at - 1] & 0x06:
            raise BadAudio(f"the webm stream laces its blocks, as files do; stream it, {_UPLOAD}")
        if len(payload) > at:
            output.append(payload[at:])


# --- Ogg (RFC 3533, RFC 7845) --------------------------------------------------------------------

_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_checksum(page: bytes) -> int:
    """Return the checksum of a page whose checksum field is zero.

    Ogg's CRC is that of zlib with the bits of each byte and of the result in the other order,
    and without its two complements, so zlib computes it (a loop in Python would take 1 ms a page).
    """
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED), "big")


class OggReader(PacketReader):
    """Opus packets of an Ogg byte stream; chained streams follow one another."""

    def __init__(self) -> None:
        super().__init__()
        self._serial: int | None = None
        self._partial: bytearray | None = None
        self._packets = 0
        """Packets of the stream so far: the first two are OpusHead and OpusTags."""
        self._others: list[str] = []

    def _advance(self, output: list[OpusHead | bytes]) -> bool:
        """Take one page; false where more bytes are needed."""
        buffer = self._buffer
        if not b"OggS\0".startswith(bytes(buffer[:5])):
            if self._serial is None:
                raise _foreign("ogg", bytes(buffer[:4]))
            raise BadAudio("the ogg stream is broken: no page begins where one must")
        if len(buffer) < 27 or len(buffer) < 27 + buffer[26]:
            return False
        lacing = bytes(buffer[27 : 27 + buffer[26]])
        size = 27 + len(lacing) + sum(lacing)
        if len(buffer) < size:
            return False
        page = bytes(buffer[:size])
        del buffer[:size]
        flags, serial, checksum = page[5], *struct.unpack_from("<I4xI", page, 14)
        if ogg_checksum(page[:22] + bytes(4) + page[26:]) != checksum:
            raise BadAudio("the ogg stream is broken: the checksum of a page is wrong")
        body = page[27 + len(lacing) :]
        if flags & 0x02:
            self._begin(serial, body)
        elif self._serial is None:
            raise BadAudio(
                f"the ogg stream holds {', '.join(self._others) or 'no stream'} and no Opus: "
                f"record as 'audio/ogg;codecs=opus', {_UPLOAD}",
                field="$.encoding",
            )
        if serial == self._serial:
            self._read_page(lacing, body, bool(flags & 0x01), output)
        return True

    def _begin(self, serial: int, body: bytes) -> None:
        if not body.startswith(b"OpusHead"):
            letters = bytes(byte for byte in body[:8] if 0x20 < byte < 0x7F)
            self._others.append(letters.decode("ascii") or "an unknown codec")
        elif self._serial is None or self._packets > 2 or serial == self._serial:
            self._serial, self._packets, self._partial = serial, 0, None

    def _read_page(
        self, lacing: bytes, body: bytes, continued: bool, output: list[OpusHead | bytes]
    ) -> None:
        # A packet whose beginning is not here (RFC 3533, 6) is left out.
        lost = continued and self._partial is None
        packet = self._partial if continued and self._partial is not None else bytearray()
        self._partial = None
        at = 0
        for length in lacing:
            if self._packets != 1:  # OpusTags may hold a picture; it is not kept
                packet += body[at : at + length]
            at += length
            if len(packet) > _MAX_PACKET:
                raise BadAudio("the ogg stream is broken: a packet is larger than Opus allows")
            if length == 255:
                continue
            if not lost:
                self._finish_packet(bytes(packet), output)
            lost, packet = False, bytearray()
        if lacing and lacing[-1] == 255 and not lost:
            self._partial = packet

    def _finish_packet(self, packet: bytes, output: list[OpusHead | bytes]) -> None:
        self._packets += 1
        if self._packets == 1:
            output.append(parse_opus_head(packet, "ogg"))
        elif self._packets > 2 and packet:
            output.append(packet)


__all__ = [
    "OggReader",
    "OpusHead",
    "PacketReader",
    "WebmReader",
    "ogg_checksum",
    "parse_opus_head",
]
