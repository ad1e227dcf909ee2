"""From a client's bytes to frames with speech probabilities: decoder and detectors of one session.

Synchronous, takes processor time, and is called from one thread at a time: the driver runs it in
its executor and waits for each call before the next. Many sessions can be served by one call,
which costs less than half of as many calls (see ``batcher``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_protocol.messages import Start
from stream_server.audio import StreamDecoder
from stream_server.recogniser.interface import Pcm
from stream_server.segmenter import vad
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
        self._origin = start.resume.position if start.resume else 0
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
        (result,) = feed_together([(self, data)])
        if isinstance(result, Exception):
            raise result
        return result

    def finish(self) -> list[Frames]:
        """Return what is left, the last frame of each channel filled up with silence.

        Raises:
            BadAudio: The stream ends inside a sample or a header.
        """
        channels = self._route(self._decoder.finish())
        result = _frames(vad.feed_together(channels))
        for channel, detector in enumerate(self._detectors):
            samples = detector.pending
            pcm, speech = detector.finish()
            if speech:
                result.append(Frames(channel, pcm, speech, samples))
        return result

    def _route(self, channels: list[Pcm]) -> list[tuple[Vad, Pcm]]:
        """Return the samples of each channel with its detector."""
        # Made when first heard: a container says how many channels it has only in its header.
        while len(self._detectors) < len(channels):
            self._detectors.append(Vad(self._aggressiveness, self._origin))
        return list(zip(self._detectors, channels, strict=False))

    def _decode(self, data: bytes) -> list[tuple[Vad, Pcm]]:
        return self._route(self._decoder.feed(data))


def feed_together(pieces: Sequence[tuple[Intake, bytes]]) -> list[list[Frames] | Exception]:
    """Feed several intakes; for each, what its own :meth:`Intake.feed` returns or raises.

    Args:
        pieces: Intakes, each at most once, and the bytes for them.
    """
    decoded: list[list[tuple[Vad, Pcm]] | Exception] = []
    for intake, data in pieces:
        try:
            decoded.append(intake._decode(data))
        except Exception as error:  # of one client; the others are served
            decoded.append(error)
    channels = [each for own in decoded if not isinstance(own, Exception) for each in own]
    heard = iter(vad.feed_together(channels))
    return [
        own if isinstance(own, Exception) else _frames([next(heard) for _ in own])
        for own in decoded
    ]


def _frames(channels: Sequence[tuple[Pcm, tuple[float, ...]]]) -> list[Frames]:
    return [
        Frames(channel, pcm, speech, len(pcm))
        for channel, (pcm, speech) in enumerate(channels)
        if speech
    ]


__all__ = ["Frames", "Intake", "feed_together"]
