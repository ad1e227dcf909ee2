"""Where audio comes from: a file in any container, or the microphone; 16 kHz mono s16le out.

Sources know nothing of servers: they are asynchronous iterators of bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import av

from stream_client.errors import SourceError

SAMPLE_RATE = 16_000
"""Hertz of what every source gives."""
BYTES_PER_SECOND = 2 * SAMPLE_RATE

Pace = Literal["realtime", "max"]


def decode_file(path: Path, channels: int = 1) -> Iterator[bytes]:
    """Yield a file's audio as 16 kHz s16le, in pieces of any length.

    Args:
        path: Any container that FFmpeg knows.
        channels: 1 mixes whatever there is; 2 leaves two channels as they are, interleaved.

    Raises:
        SourceError: There is no such file, no audio in it, or too few channels.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise SourceError(f"{path}: there is no audio in this file")
            track = container.streams.audio[0]
            if track.channels < channels:
                raise SourceError(f"{path}: two speakers need a channel each; there is one")
            layout = "stereo" if channels == 2 else "mono"
            resampler = av.AudioResampler(format="s16", layout=layout, rate=SAMPLE_RATE)
            for frame in container.decode(track):
                for piece in resampler.resample(frame):
                    yield piece.to_ndarray().tobytes()
            for piece in resampler.resample(None):
                yield piece.to_ndarray().tobytes()
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file") from None
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{path}: cannot be decoded: {error}") from error


def rechunk(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the same bytes in pieces of ``size``; the last may be shorter."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= size:
            yield bytes(waiting[:size])
            del waiting[:size]
    if waiting:
        yield bytes(waiting)


class FileSource:
    """A file, at the pace of speech or as fast as it is taken.

    Args:
        path: Any container that FFmpeg knows.
        channels: As of :func:`decode_file`.
        pace: ``realtime``: each piece comes when it would have been spoken. ``max``: at once.
        chunk_ms: Milliseconds in a piece.
        clock: Seconds that never go back.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        channels: int = 1,
        pace: Pace = "realtime",
        chunk_ms: int = 100,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path = path
        self._pace: Pace = pace
        self._channels = channels
        self._rate = BYTES_PER_SECOND * channels
        self._size = self._rate * chunk_ms // 1000
        self._clock = clock
        self._sleep = sleep

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = rechunk(decode_file(self._path, self._channels), self._size)
        begun, sent = self._clock(), 0
        # Decoding blocks, so it happens beside the loop, one piece ahead of the clock.
        while piece := await asyncio.to_thread(next, pieces, b""):
            sent += len(piece)
            if self._pace == "realtime":
                # A moment on one clock, so that delays do not add up.
                await self._sleep(max(0.0, begun + sent / self._rate - self._clock()))
            yield piece


class MicrophoneSource:
    """The default microphone, or another, until the iterator is closed.

    Args:
        device: Number or part of the name, as ``python -m sounddevice`` lists them.
        chunk_ms: Milliseconds in a piece.
        max_waiting: Pieces that may wait; what comes on top of that is lost and counted.

    Raises:
        SourceError: The ``mic`` extra or PortAudio is missing.
    """

    def __init__(
        self, device: int | str | None = None, *, chunk_ms: int = 100, max_waiting: int = 600
    ) -> None:
        self._sounddevice = _import_sounddevice()
        self._device = device
        self._blocksize = SAMPLE_RATE * chunk_ms // 1000
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(max_waiting)
        self.lost = 0
        """Pieces lost since nobody took them."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()

        def on_audio(data: Any, frames: int, when: object, status: object) -> None:
            # On PortAudio's own thread; the buffer is only valid during the call.
            loop.call_soon_threadsafe(self._take, bytes(data))

        try:
            microphone = self._sounddevice.RawInputStream(
                samplerate=SAMPLE_RATE,
                channels=1,
                dtype="int16",
                blocksize=self._blocksize,
                device=self._device,
                callback=on_audio,
            )
        except (self._sounddevice.PortAudioError, ValueError) as error:
            raise SourceError(
                f"the microphone cannot be opened: {error}; "
                "`python -m sounddevice` lists what there is, --device chooses"
            ) from error
        with microphone:
            while True:
                yield await self._waiting.get()

    def _take(self, piece: bytes) -> None:
        try:
            self._waiting.put_nowait(piece)
        except asyncio.QueueFull:
            self.lost += 1


def _import_sounddevice() -> Any:
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise SourceError("the microphone needs an extra: pip install 'diffscribe[mic]'") from None
    except OSError as error:
        # The wheel for Linux brings no PortAudio.
        raise SourceError(
            f"the microphone needs PortAudio ({error}): apt install libportaudio2, "
            "beside pip install 'diffscribe[mic]'"
        ) from error
    return sounddevice


__all__ = [
    "BYTES_PER_SECOND",
    "SAMPLE_RATE",
    "FileSource",
    "MicrophoneSource",
    "Pace",
    "decode_file",
    "rechunk",
]
