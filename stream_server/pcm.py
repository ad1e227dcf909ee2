"""Samples out of a raw PCM or G.711 byte stream, whatever its pieces.

A stream that is not what was announced must never become noise in a transcript (the most common
complaint about such servers), so what can be told from the bytes is told: a file's header, floats
that are no samples, half a sample at the end. A wrong sample rate cannot be seen.

Knows nothing of containers, resampling or sessions.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from stream_server.errors import BadAudio

Planar = npt.NDArray[np.float32]
"""Samples in [-1, 1], shape [channels, samples], at the rate of the source."""

PcmEncoding = Literal["pcm_s16le", "pcm_f32le", "mulaw", "alaw"]

_WIDTH: Final = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
_WAV_ENCODING: Final = {
    (1, 16): "pcm_s16le",
    (3, 32): "pcm_f32le",
    (7, 8): "mulaw",
    (6, 8): "alaw",
}
_MAX_WAV_HEADER = 65_536
_MAX_FLOAT = 16.0
"""Beyond this a float is no sample that was a little too loud, but something else."""
_UPLOAD = "or upload the file to POST /v1/audio/transcriptions"


def _mulaw_table() -> npt.NDArray[np.float32]:
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84
    return np.asarray(np.where(code & 0x80, -magnitude, magnitude) / 32768, np.float32)


def _alaw_table() -> npt.NDArray[np.float32]:
    code = np.arange(256) ^ 0x55
    exponent = (code >> 4) & 7
    mantissa = ((code & 0x0F) << 4) + np.where(exponent, 0x108, 8)
    magnitude = mantissa << np.maximum(exponent - 1, 0)
    return np.asarray(np.where(code & 0x80, magnitude, -magnitude) / 32768, np.float32)


_G711: Final = {"mulaw": _mulaw_table(), "alaw": _alaw_table()}
"""256 samples each (ITU-T G.711)."""


def _frame_length(head: bytes) -> int:
    """Return the bytes of the MP3 or ADTS frame that ``head`` begins; 0 where it begins none."""
    if len(head) < 6 or head[0] != 0xFF:
        return 0
    if head[1] & 0xF6 == 0xF0:  # ADTS: sync, layer 0
        return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, bitrate = head[2] >> 2 & 3, head[2] >> 4
    if head[1] & 0xE0 != 0xE0 or version == 1 or layer != 1 or rate == 3 or bitrate in (0, 15):
        return 0
    first = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    second = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    kilobits = (first if version == 3 else second)[bitrate - 1]
    hertz = (44100, 48000, 32000)[rate] >> (0 if version == 3 else 1 if version == 2 else 2)
    return (144 if version == 3 else 72) * kilobits * 1000 // hertz + (head[2] >> 1 & 1)


def sniff(head: bytes) -> str | None:
    """Return the kind of file that ``head`` begins: its name, ``""`` for none.

    None asks for more bytes: 12 always, and one frame where an MP3 may have begun (two bytes of
    its sync are ordinary samples as well, so a second frame must follow the first).
    """
    if len(head) < 12:
        return None
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "WAV"
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return "AIFF"
    if head[4:8] == b"ftyp":
        return "MP4"
    for signature, name in (
        (b"OggS\0", "Ogg"),
        (b"\x1aE\xdf\xa3", "WebM"),
        (b"fLaC", "FLAC"),
        (b"ID3\2", "MP3"),
        (b"ID3\3", "MP3"),
        (b"ID3\4", "MP3"),
    ):
        if head.startswith(signature):
            return name
    length = _frame_length(head)
    if length < 8:
        return ""
    if len(head) < length + 6:
        return None
    following = head[length:]
    alike = following[:2] == head[:2] and not (following[2] ^ head[2]) & 0x0C
    return "MP3 or AAC" if alike and _frame_length(following) else ""


_INSIDE: Final = (
    (b"WAVEfmt ", "WAV"),
    (b"OpusHead", "Ogg"),
    (b"\x42\x82\x84webm", "WebM"),
)
"""Marks of a header so long that speech does not contain them: looked for in the whole stream."""


@dataclass(frozen=True, slots=True)
class WavHeader:
    """What a WAV file says of its samples."""

    encoding: str
    sample_rate: int
    channels: int
    offset: int
    """Bytes before the first sample."""
    size: int | None
    """Bytes of samples; none where the writer did not know."""


def parse_wav(head: bytes) -> WavHeader | None:
    """Return the header, or none where more bytes are needed.

    Raises:
        BadAudio: It has no end.
    """
    encoding, rate, channels = "", 0, 0
    at = 12
    while at + 8 <= len(head):
        name, size = struct.unpack_from("<4sI", head, at)
        if name == b"data":
            known = size if 0 < size < 0x7FFF_F000 else None
            return WavHeader(encoding or "an unknown format", rate, channels, at + 8, known)
        if name == b"fmt " and at + 24 <= len(head):
            tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head, at + 8)
            if tag == 0xFFFE and at + 34 <= len(head):  # extensible: the tag begins the GUID
                (tag,) = struct.unpack_from("<H", head, at + 32)
            encoding = _WAV_ENCODING.get((tag, bits), f"format {tag} with {bits} bits")
        at += 8 + size + (size & 1)
    if at > _MAX_WAV_HEADER:
        raise BadAudio(f"the WAV header has no end; send samples only, {_UPLOAD}")
    return None


class PcmReader:
    """Samples of a raw byte stream. Any split of the bytes gives the same samples."""

    def __init__(self, encoding: PcmEncoding, sample_rate: int, channels: int) -> None:
        self.channels = channels
        self.notice: str | None = None
        """What the client may want to know about its stream, once it is known."""
        self._encoding = encoding
        self._sample_rate = sample_rate
        self._width = _WIDTH[encoding] * channels
        self._head: bytearray | None = bytearray()
        """Bytes held until it is clear what begins the stream; none afterwards."""
        self._left: int | None = None
        """Bytes up to the end that a WAV header announced."""
        self._after = b""
        """The first bytes after that end: the name of a chunk, or audio where none should be."""
        self._rest = b""
        """Part of a sample."""
        self._tail = b""
        """The last bytes seen, so that a mark across two pieces is found."""

    def feed(self, data: bytes) -> Planar:
        """Return the samples that ``data`` completes, shape [channels, samples].

        Raises:
            BadAudio: the bytes are not what was announced.
        """
        if self._head is not None:
            self._head += data
            started = self._open(bytes(self._head))
            if started is None:
                return self._samples(b"")
            self._head, data = None, started
        self._look_inside(data)
        return self._samples(self._within(data))

    def finish(self) -> Planar:
        """Return the samples still held (a very short stream).

        Raises:
            BadAudio: the stream ends inside a sample.
        """
        samples = self._samples(b"")
        if self._head is not None:
            head, self._head = bytes(self._head), None
            kind = sniff(head + bytes(max(0, 12 - len(head))))
            if kind:
                raise self._is_file(kind)
            samples = self._samples(head)
        if self._rest:
            raise BadAudio(
                f"the stream ends {self._width - len(self._rest)} bytes before the end of a "
                f"sample ({self._width} bytes of {self._encoding} with {self.channels} channels): "
                "bytes were lost, or encoding or channels are not as announced",
                field="$.encoding",
            )
        return samples

    def _open(self, head: bytes) -> bytes | None:
        """Return the bytes after any header, or none where more are needed."""
        kind = sniff(head)
        if kind is None:
            return None
        if not kind:
            return head
        if kind != "WAV":
            raise self._is_file(kind)
        header = parse_wav(head)
        if header is None:
            return None
        announced = (self._encoding, self._sample_rate, self.channels)
        found = (header.encoding, header.sample_rate, header.channels)
        if found != announced:
            names = ("$.encoding", "$.sample_rate", "$.channels")
            wrong = next(n for n, a, b in zip(names, found, announced, strict=True) if a != b)
            raise BadAudio(
                "the audio begins with a WAV header that says {}, {} Hz, {} channels, but {}, {} "
                "Hz, {} channels were announced: announce what the header says, or ".format(
                    *found, *announced
                )
                + _UPLOAD.removeprefix("or "),
                field=wrong,
            )
        self.notice = "the WAV header at the beginning was skipped; send samples only"
        self._left = header.size
        return head[header.offset :]

    def _within(self, data: bytes) -> bytes:
        """Cut what follows the samples of a WAV file: chunks that hold text and pictures."""
        if self._left is None:
            return data
        kept = data[: self._left]
        self._left -= len(kept)
        self._after = (self._after + data[len(kept) :])[:4]
        if not all(byte == 0x20 or chr(byte).isalnum() and byte < 0x80 for byte in self._after):
            raise BadAudio(
                "audio goes on after the end that its WAV header states: send samples only",
                field="$.encoding",
            )
        return kept

    def _look_inside(self, data: bytes) -> None:
        window = self._tail + data
        for mark, kind in _INSIDE:
            if mark in window:
                raise self._is_file(kind)
        self._tail = window[-15:]

    def _is_file(self, kind: str) -> BadAudio:
        remedy = {
            "Ogg": "announce encoding 'ogg'",
            "WebM": "announce encoding 'webm'",
            "WAV": "send the header once and first, or not at all",
        }.get(kind, "send raw samples")
        return BadAudio(
            f"{kind} inside a stream announced as {self._encoding}: {remedy}, {_UPLOAD}",
            field="$.encoding",
        )

    def _samples(self, data: bytes) -> Planar:
        data = self._rest + data if self._rest else data
        whole = len(data) - len(data) % self._width
        self._rest = data[whole:]
        flat = self._to_float(data[:whole])
        return np.ascontiguousarray(flat.reshape(-1, self.channels).T)

    def _to_float(self, data: bytes) -> npt.NDArray[np.float32]:
        if self._encoding == "pcm_s16le":
            return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
        if self._encoding != "pcm_f32le":
            return _G711[self._encoding][np.frombuffer(data, np.uint8)]
        samples = np.frombuffer(data, "<f4").astype(np.float32)
        peak = np.abs(samples).max(initial=0.0)
        if not np.isfinite(peak):
            raise BadAudio(
                "a sample is not a number or infinite: send finite floats in [-1, 1]",
                field="$.encoding",
            )
        if peak > _MAX_FLOAT:
            raise BadAudio(
                f"a sample is {peak:.3g}, far outside [-1, 1]: divide by the full scale, or "
                "announce the encoding that it is (pcm_s16le?)",
                field="$.encoding",
            )
        return np.clip(samples, -1.0, 1.0)


__all__ = ["PcmEncoding", "PcmReader", "Planar", "WavHeader", "parse_wav", "sniff"]
