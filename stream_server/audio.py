"""Audio of any announced kind to the one internal format: mono float32 at 16 kHz.

``StreamDecoder`` takes a live byte stream in any pieces; ``decode_file`` and ``decode_blocks``
take a whole file of any kind that FFmpeg knows. All of it is synchronous and takes processor
time: callers run it off the event loop.

Live resampling is swresample's, whose delay is 1 to 2 ms (soxr holds back 20 to 115 ms); audio
that is at 16 kHz already is not touched. Knows nothing of sessions or sockets.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol, cast, get_args

import av
import numpy as np
import numpy.typing as npt

from stream_protocol.messages import CLOCK_RATE, ChannelMode, Encoding, SampleRate
from stream_server.container import OggReader, OpusHead, PacketReader, WebmReader
from stream_server.errors import BadAudio
from stream_server.pcm import PcmEncoding, PcmReader, Planar

Pcm = npt.NDArray[np.float32]
"""Mono samples at 16 kHz in [-1, 1], shape [samples]."""

_CONTAINERS = ("webm", "ogg")
_OPUS_RATE = 48_000
_MAX_SECONDS_AT_ONCE = 600
"""Opus of next to nothing expands to hours; no live message does."""

# FFmpeg also knows formats that name other files or addresses (concat, hls, dash, sdp): a file
# from a stranger must not make the server open those, so what may be opened is listed.
_FILE_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,m4a,matroska,mov,mp3,mp4,mpeg,"
    "mpegts,oga,ogg,opus,sox,tta,voc,w64,wav,webm,wv,3gp"
)


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """A piece of one channel."""

    start: int
    """Samples; position of the first sample on the media clock."""
    pcm: Pcm
    channel: int = 0


class _Source(Protocol):
    """Bytes in, samples at the source's own rate out."""

    channels: int
    notice: str | None

    def feed(self, data: bytes) -> Planar: ...
    def finish(self) -> Planar: ...


class _OpusSource:
    """Opus in a container, decoded packet by packet as they arrive.

    The encoder's padding at the very end (under 20 ms) is kept; what its delay put before the
    first sample is cut by the decoder.
    """

    def __init__(self, reader: PacketReader, encoding: str) -> None:
        self.channels = 1
        self.notice: str | None = None
        self._reader = reader
        self._encoding = encoding
        self._codec: av.AudioCodecContext | None = None
        self._is_fed = False

    def feed(self, data: bytes) -> Planar:
        self._is_fed = self._is_fed or bool(data)
        pieces: list[Planar] = []
        total = 0
        for item in self._reader.feed(data):
            piece = self._begin(item) if isinstance(item, OpusHead) else self._decode(item)
            total += piece.shape[1]
            if total > _MAX_SECONDS_AT_ONCE * _OPUS_RATE:
                raise BadAudio(f"more than {_MAX_SECONDS_AT_ONCE} s of audio in one message")
            if piece.size:
                pieces.append(piece)
        return self._join(pieces)

    def finish(self) -> Planar:
        if self._is_fed and self._codec is None:
            raise BadAudio(
                f"the {self._encoding} stream ended before its header did: send what the "
                "recorder gives from its first byte on",
                field="$.encoding",
            )
        return self._join([self._decode(None)])

    def _begin(self, head: OpusHead) -> Planar:
        last = self._decode(None)
        codec = cast(av.AudioCodecContext, av.CodecContext.create("opus", "r"))
        codec.extradata = head.data
        self._codec = codec
        self.channels = head.channels
        return last

    def _decode(self, packet: bytes | None) -> Planar:
        """Return the samples of ``packet``; none flushes the decoder."""
        if self._codec is None:
            return np.zeros((self.channels, 0), np.float32)
        try:
            frames = self._codec.decode(None if packet is None else av.Packet(packet))
        except av.FFmpegError as error:
            raise BadAudio(f"the {self._encoding} stream holds a broken Opus packet") from error
        return self._join([frame.to_ndarray() for frame in frames])

    def _join(self, pieces: list[Planar]) -> Planar:
        if not pieces:
            return np.zeros((self.channels, 0), np.float32)
        if any(piece.shape[0] != self.channels for piece in pieces):
            # Two recordings in one message, mono and stereo: widen the mono one.
            pieces = [np.broadcast_to(p.mean(0), (self.channels, p.shape[1])) for p in pieces]
        return np.concatenate(pieces, axis=1)


class _Resampler:
    """One channel at ``rate`` hertz to 16 kHz."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._inner: av.AudioResampler | None = None
        if rate != CLOCK_RATE:
            self._inner = av.AudioResampler(format="flt", layout="mono", rate=CLOCK_RATE)
        self._is_fed = False

    def feed(self, samples: Pcm) -> Pcm:
        if self._inner is None or not samples.size:
            return samples
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples)[np.newaxis], format="flt", layout="mono"
        )
        frame.sample_rate = self._rate
        self._is_fed = True
        return self._collect(self._inner.resample(frame))

    def finish(self) -> Pcm:
        if self._inner is None or not self._is_fed:
            return np.zeros(0, np.float32)
        return self._collect(self._inner.resample(None))

    @staticmethod
    def _collect(frames: list[av.AudioFrame]) -> Pcm:
        parts: list[Pcm] = [frame.to_ndarray()[0] for frame in frames]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


class StreamDecoder:
    """A live byte stream, in any pieces, to mono float32 at 16 kHz for each output channel.

    Any split of the bytes gives the same samples. Holds at most one unfinished packet or header.
    """

    def __init__(
        self, encoding: Encoding, sample_rate: SampleRate, channels: int, channel_mode: ChannelMode
    ) -> None:
        """Begin a stream.

        Args:
            encoding: what the bytes are.
            sample_rate: hertz; containers say it themselves.
            channels: 1 or 2, interleaved; containers say it themselves.
            channel_mode: ``mix`` gives one output channel, ``split`` one for each input channel.

        Raises:
            BadAudio: one of these is not allowed.
        """
        for field, value, allowed in (
            ("$.encoding", encoding, get_args(Encoding)),
            ("$.sample_rate", sample_rate, get_args(SampleRate)),
            ("$.channels", channels if encoding not in _CONTAINERS else 1, (1, 2)),
            ("$.channel_mode", channel_mode, get_args(ChannelMode)),
        ):
            if value not in allowed:
                raise BadAudio(
                    f"{value!r} is not one of {', '.join(map(str, allowed))}", field=field
                )
        self._source: _Source
        if encoding in _CONTAINERS:
            reader = WebmReader() if encoding == "webm" else OggReader()
            self._source = _OpusSource(reader, encoding)
        else:
            self._source = PcmReader(cast(PcmEncoding, encoding), sample_rate, channels)
        self._rate = _OPUS_RATE if encoding in _CONTAINERS else int(sample_rate)
        self._is_split = channel_mode == "split"
        self._resamplers: list[_Resampler] = []

    @property
    def channels(self) -> int:
        """Output channels. Of a split container: 1 until its header has come, then what it says."""
        if self._resamplers:
            return len(self._resamplers)
        return self._source.channels if self._is_split else 1

    @property
    def notice(self) -> str | None:
        """What the client may want to know about its stream; none where nothing is odd."""
        return self._source.notice

    def feed(self, data: bytes) -> list[Pcm]:
        """Decode the next bytes.

        Returns:
            One array for each output channel, all of one length, which may be 0.

        Raises:
            BadAudio: the bytes are not what was announced.
        """
        return self._convert(self._source.feed(data))

    def finish(self) -> list[Pcm]:
        """Return what is still held; the stream is over.

        Raises:
            BadAudio: the stream ends inside a sample or a header.
        """
        last = self._convert(self._source.finish())
        tails = [resampler.finish() for resampler in self._resamplers]
        if not tails:
            return last
        return [np.concatenate(pair) for pair in zip(last, tails, strict=True)]

    def _convert(self, planar: Planar) -> list[Pcm]:
        if not planar.shape[1]:
            return [np.zeros(0, np.float32) for _ in range(self.channels)]
        rows: Planar = planar
        if not self._is_split and len(planar) > 1:
            rows = planar.mean(axis=0, keepdims=True, dtype=np.float32)
        if not self._resamplers:
            self._resamplers = [_Resampler(self._rate) for _ in rows]
        if len(rows) != len(self._resamplers):
            raise BadAudio(
                f"the stream changed from {len(self._resamplers)} to {len(rows)} channels; start "
                "a session for each recording, or use channel_mode 'mix'",
                field="$.channel_mode",
            )
        return [r.feed(row) for r, row in zip(self._resamplers, rows, strict=True)]


def decode_blocks(source: bytes | BinaryIO) -> Iterator[Pcm]:
    """Decode a file of any kind, a piece at a time, so that a long one takes no more memory.

    All channels are mixed. A truncated file is decoded as far as it goes.

    Raises:
        BadAudio: it holds no audio that can be decoded.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        container = av.open(stream, "r", options={"format_whitelist": _FILE_FORMATS})
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadAudio(
            "the file is not audio of a kind that can be decoded, or is broken or empty: send "
            "WAV, FLAC, MP3, M4A, Ogg or WebM",
            field="file",
        ) from error
    is_empty = True
    with container:
        if not container.streams.audio:
            raise BadAudio("the file holds no audio", field="file")
        for block in _resample_frames(_frames(container)):
            if block.size:
                is_empty = False
                yield block
    if is_empty:
        raise BadAudio("the file holds no audio that can be decoded", field="file")


def decode_file(data: bytes) -> Pcm:
    """Decode a whole file of any kind: all channels mixed, at 16 kHz.

    Raises:
        BadAudio: it holds no audio that can be decoded.
    """
    return np.concatenate(list(decode_blocks(data)))


def _frames(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """Yield the frames that can be decoded; what is broken between them is left out."""
    stream = container.streams.audio[0]
    try:
        for packet in container.demux(stream):
            try:
                yield from stream.decode(packet)
            except av.FFmpegError:
                continue
    except av.FFmpegError:
        return  # a broken end: what came before it counts


def _resample_frames(frames: Iterator[av.AudioFrame]) -> Iterator[Pcm]:
    """Yield mono blocks at 16 kHz; the format may change on the way."""
    resampler: av.AudioResampler | None = None
    shape: tuple[object, ...] = ()
    for frame in frames:
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or found != shape:
            if resampler is not None:
                yield from map(_mixed, resampler.resample(None))
            resampler, shape = av.AudioResampler(format="fltp", rate=CLOCK_RATE), found
        # The file's own time stamps may jump; the media clock counts samples.
        frame.pts = None
        yield from map(_mixed, resampler.resample(frame))
    if resampler is not None:
        yield from map(_mixed, resampler.resample(None))


def _mixed(frame: av.AudioFrame) -> Pcm:
    """Return the mean of the channels; NaN of a float file becomes silence."""
    mean: Pcm = frame.to_ndarray().mean(axis=0, dtype=np.float32)
    return np.clip(np.nan_to_num(mean, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)


__all__ = ["AudioChunk", "Pcm", "StreamDecoder", "decode_blocks", "decode_file"]
