"""Voice activity detection: audio in, a speech probability for each frame out.

Three witnesses, cheapest first. An adaptive noise floor says whether a frame stands out from what
the room always sounds like: steady hiss and hum do not. WebRTC's detector says whether it is
shaped like speech. Periodicity says whether there was a voice just now: clatter and breath have
none, and every syllable has a vowel. Speech is what the floor and the detector agree on near a
voice, or a clear voice that the detector missed.

None of them remembers more than 20 s, and what they count they count on the media clock: a stream
that is resumed with so much audio from before hears what it would have heard without the break.

The only file that imports ``webrtcvad``. Belongs off the event loop; one instance per channel. What
is arithmetic is done for many channels in one go: a call of numpy costs as much as its work on a
tenth of a second of one channel, and lets go of the interpreter lock only to wait for it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import webrtcvad

from stream_server.recogniser.interface import SAMPLE_RATE, Pcm
from stream_server.segmenter.segmenter import FRAME

_QUIETEST = -66.0
"""dBFS under which the floor does not fall: digital silence must not make faint noise loud."""
_LOUDEST = -20.0
"""dBFS over which the floor does not rise, so that shouting without a pause stays speech."""
_WINDOW = 20
"""Frames (400 ms) of which one minimum is kept."""
_WINDOWS = 8
"""Minima that make the floor, so 3.2 s: longer than people talk without any dip."""
_MARGIN = 8.0
"""Decibels above the floor at which speech is as likely as not."""
_SLOPE = 1.5
"""Decibels over which that likelihood changes by a factor of e."""
_CERTAIN = 6.0
"""Slopes from the margin at which the floor's answer is certain."""

_PERIOD = 800
"""Frames (16 s) of the media clock after which a new detector of WebRTC's is begun: each remembers
all that it ever heard."""
_WARM_UP = 200
"""Frames (4 s) that it listens before it takes over: twice what its own noise estimate looks at."""

_DECIMATION = 4
"""Periodicity is looked for at 4 kHz, where pitch and the first formant are."""
_SHORT = FRAME // _DECIMATION
"""Samples of a frame at that rate; the window is two frames (40 ms)."""
_PITCH = slice(10, 64)
"""Lags at that rate: voices of 62 to 400 Hz."""
_HOLD = 0.9
"""Factor by which a voice fades with each frame after it: the consonants that follow a vowel."""
_VOICED = 0.5
"""Periodicity near which a frame that the detector flagged is as likely speech as not."""
_CLEARLY_VOICED = 0.75
"""The same for a frame that the detector did not flag."""
_SHARPNESS = 12.0
"""Steepness of both."""

_TRANSFORM = 256
"""Points: a window and the longest lag, so that nothing wraps round."""
_LAG_WEIGHTS: Pcm = (1.0 / (1.0 - np.arange(10, 64) / (2 * _SHORT))).astype(np.float32)
"""Fewer products add up at longer lags; this makes a steady tone 1 at each of them."""


class Vad:
    """Finds speech in one channel of a stream.

    Args:
        aggressiveness: 0 to 3 of WebRTC's detector; higher takes less for speech.
        position: Samples; the media-clock position of the first sample that will be fed.
    """

    def __init__(self, aggressiveness: int = 2, position: int = 0) -> None:
        frame = position // FRAME
        self._detector = _Detector(aggressiveness, frame)
        self._rest: Pcm = np.empty(0, np.float32)
        self._before: Pcm = np.zeros(_SHORT, np.float32)
        """The last frame, decimated."""
        self._voice = 0.0
        """Periodicity of the last frames, fading."""
        self._floor = _Floor(frame)

    @property
    def pending(self) -> int:
        """Samples kept because they do not fill a frame."""
        return len(self._rest)

    def feed(self, pcm: Pcm) -> tuple[Pcm, tuple[float, ...]]:
        """Take samples and return whole frames with the speech probability of each.

        What does not fill a frame is kept for the next call.
        """
        return feed_together([(self, pcm)])[0]

    def finish(self) -> tuple[Pcm, tuple[float, ...]]:
        """Return the last frame, filled up with silence; nothing if no sample is left."""
        if not len(self._rest):
            return self._rest, ()
        return self.feed(np.zeros(FRAME - len(self._rest), np.float32))

    def _whole_frames(self, pcm: Pcm) -> Pcm:
        if len(self._rest):
            pcm = np.concatenate((self._rest, pcm))
        whole = len(pcm) - len(pcm) % FRAME
        self._rest = pcm[whole:].copy()
        return pcm[:whole]

    def _exchange(self, last: Pcm) -> Pcm:
        """Keep the last frame, decimated, and return the one kept before."""
        before, self._before = self._before, last.copy()
        return before

    def _score(
        self, levels: Sequence[float], voices: Sequence[float], data: bytes
    ) -> tuple[float, ...]:
        size = FRAME * 2
        adapt, hears = self._floor.adapt, self._detector.is_speech
        voice = self._voice
        scores = []
        for index, level in enumerate(levels):
            stands_out = (level - adapt(level) - _MARGIN) / _SLOPE
            # The detector adapts too, so it hears every frame.
            flagged = hears(data[index * size : (index + 1) * size])
            own = voices[index]
            voice = max(own, voice * _HOLD)
            if stands_out < -_CERTAIN:
                scores.append(0.0)
                continue
            likeness = _logistic((own - _CLEARLY_VOICED) * _SHARPNESS)
            if flagged:
                likeness = max(likeness, _logistic((voice - _VOICED) * _SHARPNESS))
            scores.append(likeness * _logistic(stands_out))
        self._voice = voice
        return tuple(scores)


class _Detector:
    """WebRTC's detector with an end to its memory.

    Args:
        aggressiveness: 0 to 3.
        frame: Number of the first frame on the media clock.
    """

    def __init__(self, aggressiveness: int, frame: int) -> None:
        self._aggressiveness = aggressiveness
        self._frame = frame
        self._current = webrtcvad.Vad(aggressiveness)
        self._successor: webrtcvad.Vad | None = None

    def is_speech(self, data: bytes) -> bool:
        """Say whether a frame of 16-bit samples is shaped like speech."""
        flagged: bool = self._current.is_speech(data, SAMPLE_RATE)
        phase = self._frame % _PERIOD
        self._frame += 1
        if phase == 0:
            self._successor = webrtcvad.Vad(self._aggressiveness)
        if self._successor is not None:
            self._successor.is_speech(data, SAMPLE_RATE)
            if phase == _WARM_UP - 1:
                self._current, self._successor = self._successor, None
        return flagged


class _Floor:
    """How loud it is when nobody talks: the quietest frame of the last seconds.

    Args:
        frame: Number of the first frame on the media clock.
    """

    def __init__(self, frame: int) -> None:
        self._minima = [_QUIETEST] * _WINDOWS
        self._minimum = math.inf
        self._counted = frame % _WINDOW
        self._level = _QUIETEST

    def adapt(self, level: float) -> float:
        """Take the level of a frame, and return the floor, both dBFS."""
        if level < self._minimum:
            self._minimum = level
        self._counted += 1
        if self._counted == _WINDOW:
            del self._minima[0]
            self._minima.append(self._minimum)
            self._minimum = math.inf
            self._counted = 0
            self._level = min(max(min(self._minima), _QUIETEST), _LOUDEST)
        return self._level


def feed_together(
    pieces: Sequence[tuple[Vad, Pcm]],
) -> list[tuple[Pcm, tuple[float, ...]]]:
    """Feed several detectors; the result of each is that of its own :meth:`Vad.feed`.

    Args:
        pieces: Detectors, each at most once, and the samples for them.
    """
    frames = [vad._whole_frames(pcm) for vad, pcm in pieces]
    if not any(map(len, frames)):
        return [(each, ()) for each in frames]
    pcm = frames[0] if len(frames) == 1 else np.concatenate(frames)
    levels = _levels(pcm)
    voices = _periodicity(_pairs(pieces, frames, pcm))
    data = np.clip(pcm * 32768.0, -32768, 32767).astype("<i2").tobytes()
    results = []
    first = 0
    for (vad, _), each in zip(pieces, frames, strict=True):
        last = first + len(each) // FRAME
        sound = data[first * FRAME * 2 : last * FRAME * 2]
        results.append((each, vad._score(levels[first:last], voices[first:last], sound)))
        first = last
    return results


def _pairs(pieces: Sequence[tuple[Vad, Pcm]], frames: Sequence[Pcm], pcm: Pcm) -> Pcm:
    """Return each frame, decimated, behind the one before it of its channel."""
    short = (pcm[0::4] + pcm[1::4] + pcm[2::4] + pcm[3::4]).reshape(-1, _SHORT)
    pairs = np.empty((len(short), 2 * _SHORT), np.float32)
    pairs[1:, :_SHORT] = short[:-1]
    pairs[:, _SHORT:] = short
    first = 0
    for (vad, _), each in zip(pieces, frames, strict=True):
        if len(each):
            last = first + len(each) // FRAME
            pairs[first, :_SHORT] = vad._exchange(short[last - 1])
            first = last
    return pairs


def _periodicity(pairs: Pcm) -> list[float]:
    """How much each row repeats itself at the rate of a voice, 0 to 1."""
    # Transforms rather than products of matrices: BLAS would start threads of its own for these,
    # and on a busy server they wait for each other.
    pairs -= pairs.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(pairs, _TRANSFORM)
    correlation = np.fft.irfft(np.square(spectrum.real) + np.square(spectrum.imag))
    peak = (correlation[:, _PITCH] * _LAG_WEIGHTS).max(axis=1)
    result: list[float] = (peak / (correlation[:, 0] + 1e-9)).tolist()
    return result


def _levels(pcm: Pcm) -> list[float]:
    """Level of each frame in dBFS, without any constant offset of the microphone."""
    frames = pcm.reshape(-1, FRAME)
    power = np.einsum("ij,ij->i", frames, frames) / FRAME - np.square(frames.mean(axis=1))
    levels: list[float] = (10.0 * np.log10(np.maximum(power, 1e-12))).tolist()
    return levels


def _logistic(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(value, -30.0), 30.0)))


__all__ = ["Vad", "feed_together"]
