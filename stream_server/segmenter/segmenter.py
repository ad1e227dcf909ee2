"""Endpointing: speech probabilities in, speech events and segments out.

Pure: no clock, no detector; time is the count of samples. The unit is a frame of 20 ms, and every
decision is made frame by frame, so how the audio was cut into chunks changes nothing.

A segment runs from a little before its first speech frame (pre-roll: a soft first sound is rarely
called speech) to a little after its last. Segments never overlap. Each of them gives, in this
order, ``SpeechStarted``, ``SpeechEnded`` and a ``Segment`` that is final; speech that outlasts the
maximum is cut at its quietest point and goes on as the next segment, sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream_protocol.messages import Endpointing
from stream_server.recogniser.interface import SAMPLE_RATE, Pcm, Utterance
from stream_server.segmenter.buffer import PcmBuffer

FRAME = 320
"""Samples of a frame: 20 ms, the longest that WebRTC's detector and its 10 ms steps share well."""

_THRESHOLD = 0.5
"""Probability from which a frame counts as speech."""
_PREROLL = 15 * FRAME
"""Samples kept before the first speech frame (300 ms)."""
_TAIL = 10 * FRAME
"""Samples kept after the last speech frame (200 ms), not the whole pause that proved the end."""
_SHORT_TAIL = 5 * FRAME
"""The same (100 ms) where the pause that proves an end is short. No segment can be decoded before
its tail was heard: a tail as long as the pause would leave no time to decode ahead of the end. The
closure of a plosive is shorter, so few pauses inside a word are taken for a likely end."""
_LIKELY = 15 * FRAME
"""Samples (300 ms) before a pause is long enough from which on it is likely to become so."""
_RECENT = 5
"""Frames looked at to decide whether running speech goes on."""
_RECENT_SPEECH = 2
"""Speech frames among them that let it go on: a lone click does not keep a segment open."""
_PAUSE = 1e-4
"""Power of what stands for a pause, at most, as a share of the speech before it (-40 dB)."""
_SMOOTHING = 5
"""Frames (100 ms) over which loudness is averaged to find a quiet point: longer than the closure
of a plosive, so a word is not cut in its middle."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech began."""

    number: int
    """Of the segment, from 0 in each segmenter."""
    at: int
    """Samples; the first speech frame, without pre-roll."""


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """Speech ended."""

    number: int
    at: int
    """Samples; the end of the last speech frame, or of the cut."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The audio of one stretch of speech."""

    number: int
    start: int
    """Samples."""
    pcm: Pcm
    is_final: bool
    """Whether nothing can be added to it any more."""
    onset: int = 0
    """Samples; where speech began, after the little before it that belongs to the segment."""
    missing: int = 0
    """Samples of silence that would have belonged to it, had the stream gone on."""

    @property
    def end(self) -> int:
        """Samples; the position after the last one."""
        return self.start + len(self.pcm)

    def utterance(
        self,
        longest: int,
        steps: int,
        language: str | None,
        *,
        draft: tuple[int, ...] = (),
        trace: bool = False,
    ) -> Utterance:
        """Return what is decoded of it: the same of a stream and of a file that holds it.

        Args:
            longest: samples that the recogniser takes.
            steps: as those below, see :class:`Utterance`.
            language: none lets the model decide.
            draft: of a partial.
            trace: whether the client asked for it.
        """
        # The noise comes from its place, so that a stream that is played again says the same.
        return Utterance(
            pcm=self.with_pause(longest),
            steps=steps,
            language=language,
            draft=draft,
            seed=self.start,
            trace=trace,
        )

    def with_pause(self, longest: int) -> Pcm:
        """Return the audio as if the stream had gone on in silence: with what is missing.

        A last word right at the end of the audio is heard less well. Digital silence would be a
        sound of its own, so it is the quietest 20 ms of the segment, to and fro.

        Args:
            longest: Samples that it may have.
        """
        missing = min(self.missing, longest - len(self.pcm))
        frames = self.pcm[: len(self.pcm) // FRAME * FRAME].reshape(-1, FRAME)
        if missing <= 0 or not len(frames):
            return self.pcm
        power = np.square(frames, dtype=np.float64).mean(axis=1)
        quiet = frames[int(power.argmin())]
        # Where speech has no pause at all, its quietest part is speech too.
        loudest = _PAUSE * float(power.mean())
        gain = min(1.0, (loudest / max(float(power.min()), 1e-12)) ** 0.5)
        there_and_back = np.concatenate([quiet, quiet[::-1]]) * np.float32(gain)
        return np.concatenate([self.pcm, np.resize(there_and_back, missing)])


SegmentEvent = SpeechStarted | SpeechEnded | Segment


@dataclass(slots=True)
class _Running:
    """The segment being spoken."""

    start: int
    onset: int
    longest: int
    """Samples at which it is cut."""
    speech_end: int
    """Position after the last frame taken for speech."""


def _frames(milliseconds: int) -> int:
    return -(-milliseconds * SAMPLE_RATE // (1000 * FRAME))


def _last_third(running: _Running) -> int:
    return running.start + running.longest // FRAME * 2 // 3 * FRAME


class Segmenter:
    """Finds segments in one channel of a stream.

    Args:
        endpointing: When speech begins and ends; can be changed while running.
        start: Samples; the media-clock position of the first sample that will be fed.
    """

    def __init__(self, endpointing: Endpointing, start: int = 0) -> None:
        self._position = start
        self._audio = PcmBuffer(start)
        self._floor = start
        """Where the last segment ended; none begins before."""
        self._number = 0
        self._history = 0
        """One bit a frame, the newest lowest: whether it was speech."""
        self._running: _Running | None = None
        self.configure(endpointing)

    def configure(self, endpointing: Endpointing) -> None:
        """Take other settings from the next frame on.

        Where the maximum gets shorter, the running segment is cut soon, but nowhere in what was
        heard of it already: :attr:`earliest_cut` was said to be later than that.
        """
        self._onset = max(1, endpointing.min_speech_ms * SAMPLE_RATE // (1000 * FRAME))
        # N speech frames of the last M: gaps inside a word are allowed, scattered clicks are not.
        self._onset_window = self._onset + self._onset // 2 + 1
        self._history_mask = (1 << max(self._onset_window, _RECENT)) - 1
        self._keep = min(_RECENT_SPEECH, self._onset)
        self._hangover = max(1, _frames(endpointing.silence_ms)) * FRAME
        self._tail = min(_TAIL, max(_SHORT_TAIL, self._hangover - _LIKELY), self._hangover)
        frames = endpointing.max_segment_ms * SAMPLE_RATE // (1000 * FRAME)
        self._longest = max(_SMOOTHING * 3, frames) * FRAME
        if self._running is not None:
            heard = self._position - self._running.start
            shortest = min(self._running.longest, -(-heard // (2 * FRAME)) * 3 * FRAME)
            self._running.longest = max(self._longest, shortest)

    def go_on(self, before: Sequence[float]) -> list[SegmentEvent]:
        """Begin in the middle of speech that was cut here; call before anything is fed.

        Args:
            before: Probability of speech of the last frames before.
        """
        for probability in before:
            self._remember(probability >= _THRESHOLD)
        at = self._position
        self._running = _Running(at, at, self._longest, speech_end=at)
        return [SpeechStarted(self._number, self._position)]

    @property
    def position(self) -> int:
        """Samples; the end of what was fed."""
        return self._position

    @property
    def earliest_cut(self) -> int | None:
        """Samples; no end of the running segment that speech goes on after comes before.

        None while no segment runs.
        """
        if self._running is None:
            return None
        return _last_third(self._running) + _SMOOTHING // 2 * FRAME

    def feed(self, pcm: Pcm, speech: Sequence[float]) -> list[SegmentEvent]:
        """Take whole frames and return what they made happen, oldest first.

        Args:
            pcm: ``len(speech) * FRAME`` samples.
            speech: Probability of speech of each frame, 0 to 1.

        Raises:
            ValueError: The lengths do not belong together.
        """
        if len(pcm) != len(speech) * FRAME:
            raise ValueError(f"{len(pcm)} samples are not {len(speech)} frames of {FRAME}")
        self._audio.append(pcm)
        events: list[SegmentEvent] = []
        for probability in speech:
            self._position += FRAME
            is_speech = probability >= _THRESHOLD
            self._remember(is_speech)
            if self._running is not None:
                self._go_on(self._running, is_speech, events)
            elif is_speech:
                self._listen(events)
        self._forget()
        return events

    def flush(self) -> list[SegmentEvent]:
        """End the running segment here, if there is one, and return its events."""
        events: list[SegmentEvent] = []
        if self._running is not None:
            running = self._running
            self._end(running, self._heard_end(running), events, self._missing(running))
            self._forget()
        return events

    def snapshot(self, end: int | None = None) -> Segment | None:
        """Return the running segment so far, without the pause that may be ending it.

        Args:
            end: Samples; up to where instead.
        """
        running = self._running
        if running is None:
            return None
        pcm = self._audio.read(running.start, self._heard_end(running) if end is None else end)
        return Segment(self._number, running.start, pcm, is_final=False, onset=running.onset)

    @property
    def likely_end(self) -> int | None:
        """Samples; where the running segment will end, once a pause is likely to end it.

        That is certain but for speech that goes on, so work on the segment can begin.
        """
        running = self._running
        if running is None:
            return None
        pause = self._position - running.speech_end
        if pause < max(self._tail, self._hangover - _LIKELY):
            return None
        return running.speech_end + self._tail

    def _remember(self, is_speech: bool) -> None:
        self._history = (self._history << 1 | is_speech) & self._history_mask

    def _listen(self, events: list[SegmentEvent]) -> None:
        recent = self._history & ((1 << self._onset_window) - 1)
        if recent.bit_count() < self._onset:
            return
        onset = self._position - recent.bit_length() * FRAME
        start = max(onset - _PREROLL, self._floor, self._audio.start)
        self._running = _Running(start, onset, self._longest, speech_end=self._position)
        events.append(SpeechStarted(self._number, onset))
        self._cut_if_too_long(self._running, events)

    def _go_on(self, running: _Running, is_speech: bool, events: list[SegmentEvent]) -> None:
        if is_speech:
            recent = self._history & ((1 << _RECENT) - 1)
            if recent.bit_count() >= self._keep:
                running.speech_end = self._position
        if self._position - running.speech_end >= self._hangover:
            self._end(running, running.speech_end + self._tail, events)
        else:
            self._cut_if_too_long(running, events)

    def _heard_end(self, running: _Running) -> int:
        """Where the running segment would end if it ended now."""
        pause = (self._position - running.speech_end) // FRAME
        if self._history & ((1 << pause) - 1):
            return self._position  # the first frames of a word, perhaps
        return min(running.speech_end + self._tail, self._position)

    def _missing(self, running: _Running) -> int:
        """How much of the tail has not been heard."""
        pause = (self._position - running.speech_end) // FRAME
        newest = self._history & -self._history
        silent = min(pause, newest.bit_length() - 1) if newest else pause
        return max(0, self._tail - silent * FRAME)

    def _end(
        self, running: _Running, end: int, events: list[SegmentEvent], missing: int = 0
    ) -> None:
        self._emit(running, end, min(running.speech_end, end), events, missing)
        self._running = None
        # What was heard after the end may be the first frames of the next word; what was heard
        # before it is spent.
        self._history &= (1 << (self._position - end) // FRAME) - 1

    def _cut_if_too_long(self, running: _Running, events: list[SegmentEvent]) -> None:
        while self._position - running.start >= running.longest:
            cut = self._quietest(running)
            if cut >= running.speech_end:  # the quiet point is the pause after the last word
                end = min(running.speech_end + self._tail, running.start + running.longest)
                self._end(running, end, events)
                return
            self._emit(running, cut, cut, events)
            events.append(SpeechStarted(self._number, cut))
            running.start, running.onset, running.longest = cut, cut, self._longest

    def _emit(
        self,
        running: _Running,
        end: int,
        speech_end: int,
        events: list[SegmentEvent],
        missing: int = 0,
    ) -> None:
        events.append(SpeechEnded(self._number, speech_end))
        start, onset = running.start, min(running.onset, end)
        pcm = self._audio.read(start, end)
        events.append(
            Segment(self._number, start, pcm, is_final=True, onset=onset, missing=missing)
        )
        self._number += 1
        self._floor = end

    def _quietest(self, running: _Running) -> int:
        """Position of the quietest 100 ms in the last third of the longest allowed segment."""
        first = _last_third(running)
        audio = self._audio.read(first, running.start + running.longest).reshape(-1, FRAME)
        energy = np.square(audio, dtype=np.float64).sum(axis=1)
        smooth = np.convolve(energy, np.ones(_SMOOTHING), mode="valid")
        return first + (int(smooth.argmin()) + _SMOOTHING // 2) * FRAME

    def _forget(self) -> None:
        if self._running is not None:
            self._audio.drop_before(self._running.start)
        else:
            kept = max(self._onset_window, _RECENT) * FRAME + _PREROLL
            self._audio.drop_before(max(self._floor, self._position - kept))


__all__ = ["FRAME", "Segment", "SegmentEvent", "Segmenter", "SpeechEnded", "SpeechStarted"]
