"""From a client's bytes to frames with speech probabilities: decoder and detectors of one session.

Synchronous, takes processor time, and is called from one thread at a time: the driver runs it in
its executor and waits for each call before the next.
"""

from __future__ import annotations

from dataclasses import dataclass

from stream_protocol.messages import Start

from stream_server.audio import StreamDecoder
from stream_server.recogniser.interface import Pcm
from stream_server.segmenter.vad import Vad


@dataclass(frozen=True, slots=True)
class Frames:
    """Whole frames of one channel."""

    channel: int
    pcm: Pcm
    speech: tuple[float, ...]
    """Probability of speech of each frame."""
    samples: int
    """How many samples were received; the rest is padding."""


class Intake:
    """Decodes one stream.

    Args:
        start: What the client announced.
        aggressiveness: Of the voice activity detection, 0 to 3.

    Raises:
        BadAudio: What was announced cannot be decoded.
    """

    def __init__(self, start: Start, aggressiveness: int) -> None:
        self._decoder = StreamDecoder(
            start.encoding, start.sample_rate, start.channels, start.channel_mode
        )
        self._aggressiveness = aggressiveness
        self._detectors: list[Vad] = []

    @property
    def notice(self) -> str | None:
        """What the client may want to know about its audio; none where nothing is odd."""
        return self._decoder.notice

    def feed(self, data: bytes) -> list[Frames]:
        """Take the next bytes and return the frames that they complete, of each channel.

        Raises:
            BadAudio: The bytes are not what was announced.
        """
        return self._detect(self._decoder.feed(data))

    def finish(self) -> list[Frames]:
        """Return what is left, the last frame of each channel filled up with silence.

        Raises:
            BadAudio: The stream ends inside a sample or a header.
        """
        result = self._detect(self._decoder.finish())
        for channel, detector in enumerate(self._detectors):
            samples = detector.pending
            pcm, speech = detector.finish()
            if speech:
                result.append(Frames(channel, pcm, speech, samples))
        return result

    def _detect(self, channels: list[Pcm]) -> list[Frames]:
        while len(self._detectors) < len(channels):
            self._detectors.append(Vad(self._aggressiveness))
        result = []
        for channel, decoded in enumerate(channels):
            pcm, speech = self._detectors[channel].feed(decoded)
            if speech:
                result.append(Frames(channel, pcm, speech, len(pcm)))
        return result


__all__ = ["Frames", "Intake"]
