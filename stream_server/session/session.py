"""One client's stream as a state machine: what comes in goes through, effects come out.

Pure: no clock, no loop, no thread. Time is the count of samples, from the position at which the
stream was resumed. ``driver`` performs the effects; a test just reads them.

What holds whatever the order of events: finals of a channel go out in the order of its segments;
each ``flush`` gets its ``flushed`` after every final that was due then; ``done`` is last; a
segment gets exactly one final, also when its decoding failed; at most one partial of a segment is
in the engine. The last keeps the newest draft for each partial and slows the partials of a busy
server down by itself: no request is made only to be replaced.

A pause that is likely to become an end is taken for one ahead of time: the whole segment is decoded
as its final would be. If the pause holds, that was the final; else it was a good partial.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import (
    Ack,
    Configure,
    Done,
    Endpointing,
    Flush,
    Flushed,
    Limits,
    Notice,
    Ready,
    Start,
    Stop,
)
from stream_protocol.messages import SpeechEnded as SpeechEndedMessage
from stream_protocol.messages import SpeechStarted as SpeechStartedMessage
from stream_server.errors import LimitReached, error_message, wire_error
from stream_server.recogniser.interface import SAMPLE_RATE, Pcm, RecogniserInfo
from stream_server.scheduler.request import Decoded, Reply, Request
from stream_server.segmenter.segmenter import FRAME, Segment, Segmenter, SegmentEvent, SpeechStarted
from stream_server.session.effects import Cancel, Close, Effect, Promote, Send, Submit
from stream_server.session.lead import Lead
from stream_server.session.reports import (
    failed_final,
    final_message,
    partial_message,
    trace_messages,
)
from stream_server.session.validation import validate_configure, validate_start
from stream_server.transcript.transcript import Transcript

_ACK_INTERVAL = SAMPLE_RATE
"""Samples between acknowledgements."""
_MILLISECOND = SAMPLE_RATE // 1000
"""Samples."""
_FIRST_PARTIAL = 300 * _MILLISECOND
"""Samples of speech after which something should be shown, however long the interval."""


class State(Enum):
    """Where a session is."""

    NEW = "before it was opened"
    STREAMING = "streaming"
    STOPPING = "stopping"
    DONE = "done"


_AUDIO = "audio"
_TRANSITIONS: dict[State, dict[type | str, State]] = {
    State.NEW: {},
    State.STREAMING: {
        _AUDIO: State.STREAMING,
        Flush: State.STREAMING,
        Configure: State.STREAMING,
        Stop: State.STOPPING,
    },
    State.STOPPING: {},
    State.DONE: {},
}
"""State -> what comes -> state after it. A missing key is the peer's error."""


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """What the server gives every session."""

    info: RecogniserInfo
    limits: Limits
    resume_token: str
    default_steps: int
    """Denoising steps of a final where the client asks for no other number."""
    partial_steps: int
    """Denoising steps of a partial."""
    speculates: bool = True
    """Whether finals are begun while a pause is only likely to be the end."""


@dataclass(slots=True)
class _Guess:
    """A decode of the whole segment as if the pause were its end."""

    request: Request
    end: int
    """Samples; of the audio."""
    reply: Decoded | None = None
    is_right: bool = False
    """Whether the segment has ended there, and the reply will be that to its final."""


@dataclass(slots=True)
class _OpenSegment:
    """A segment between its first speech and its final."""

    number: int
    """On the wire."""
    heard: int
    """Samples; how far the audio of the last request reached."""
    transcript: Transcript | None = None
    draft: tuple[int, ...] = ()
    """Tokens of the newest partial."""
    revision: int = 0
    """Requests made."""
    in_flight: int = 0
    """Revision of the partial in the engine; 0 where there is none."""
    guess: _Guess | None = None
    """Made in the newest pause."""
    audio: Segment | None = None
    """Once it has ended."""
    reply: Reply | None = None
    """To its final request."""

    def begin(self, audio: Segment) -> None:
        """Know where its text begins, with its first request."""
        if self.transcript is None:
            self.transcript = Transcript(self.number, audio.start, audio.onset)


@dataclass(slots=True)
class _Channel:
    """One transcript."""

    index: int
    segmenter: Segmenter
    received: int
    """Samples."""
    lead: Lead
    segments: deque[_OpenSegment] = field(default_factory=deque)
    """Oldest first; only the newest can be running."""


@dataclass(slots=True)
class _Barrier:
    """A ``flush`` or the ``stop``, waiting for finals."""

    flush: Flush | None
    """None for the stop."""
    position: int
    waiting: set[int]
    """Numbers of the segments whose finals go first."""


class Session:
    """The state of one stream.

    Args:
        session_id: Names the stream in the engine and to the client.
        start: The client's first message.
        policy: What the server gives.

    Raises:
        InvalidField: A value of ``start`` is outside its range.
    """

    def __init__(self, session_id: str, start: Start, policy: SessionPolicy) -> None:
        validate_start(start, policy.info)
        self._id = session_id
        self._start = start
        self._policy = policy
        self._state = State.NEW
        self._language = start.language
        self._steps = start.steps or policy.default_steps
        self._endpointing = self._bounded(start.endpointing)
        self._interval = start.partial_interval_ms * _MILLISECOND
        self._origin = start.resume.position if start.resume else 0
        self._next_number = start.resume.segment if start.resume else 0
        self._places = start.resume.channels if start.resume else None
        self._begin = min((each.covered for each in self._places or ()), default=self._origin)
        """Samples; where the audio begins that counts for the limit of a session."""
        self._acknowledged = self._origin
        self._channels: dict[int, _Channel] = {}
        self._pending: dict[int, _Channel] = {}
        """Segments, by number, that ended and whose final has not been sent."""
        self._barriers: deque[_Barrier] = deque()
        self._sent_finals = 0
        self._failure: Exception | None = None

    @property
    def state(self) -> State:
        """Where the session is."""
        return self._state

    @property
    def pending_finals(self) -> int:
        """Segments that ended and whose final has not been sent."""
        return len(self._pending)

    @property
    def pending_flushes(self) -> int:
        """Answers that wait for finals."""
        return len(self._barriers)

    @property
    def is_done(self) -> bool:
        """Whether everything has been sent and nothing more may come."""
        return self._state is State.DONE

    @property
    def is_failing(self) -> bool:
        """Whether an error ends the session, so that what the client still sends is ignored."""
        return self._failure is not None

    @property
    def position(self) -> int:
        """Samples; up to here every channel was received."""
        return min((each.received for each in self._channels.values()), default=self._origin)

    def open(self) -> list[Effect]:
        """Begin; call once, first."""
        if self._state is not State.NEW:
            raise RuntimeError("the session was opened before")
        self._state = State.STREAMING
        ready = Ready(
            session=self._id,
            resume_token=self._policy.resume_token,
            model=self._policy.info.name,
            languages=list(self._policy.info.languages),
            limits=self._policy.limits,
        )
        return [Send(ready)]

    def receive_audio(
        self, channel: int, pcm: Pcm, speech: Sequence[float], samples: int | None = None
    ) -> list[Effect]:
        """Take audio.

        Args:
            channel: Output channel of the decoder.
            pcm: Whole frames.
            speech: Probability of speech of each frame.
            samples: How many of the samples were received, where the last frame of a stream was
                filled up with silence; none where all were.

        Raises:
            RemoteProtocolError: No audio may come now.
        """
        self._advance(_AUDIO, "audio")
        source = self._channel(channel)
        longest = self._policy.limits.max_session_ms * _MILLISECOND
        if longest:
            left = max(0, longest - (source.received - self._begin)) // FRAME
            pcm, speech = pcm[: left * FRAME], speech[:left]
        source.received += len(pcm) if samples is None else min(samples, len(pcm))
        effects = self._apply(source, _segment(source, pcm, speech))
        effects += self._request_partial(source)
        if self.position - self._acknowledged >= _ACK_INTERVAL:
            effects.append(self._acknowledge())
        if longest and self.position - self._begin > longest - FRAME:
            text = f"a session may have {self._policy.limits.max_session_ms} ms of audio; "
            effects += self.fail(LimitReached(text + "connect again with `resume` to go on"))
        return effects

    def receive_message(self, message: Flush | Configure | Stop) -> list[Effect]:
        """Take a control message.

        Raises:
            RemoteProtocolError: It may not come now.
            InvalidField: A value of it is outside its range.
        """
        self._advance(type(message), type(message).__name__.lower())
        match message:
            case Configure():
                return self._configure(message)
            case Flush():
                return self._wait_for_finals(message)
            case Stop():
                return self._wait_for_finals(None)

    def receive_reply(self, reply: Reply) -> list[Effect]:
        """Take the engine's answer to a request; one that nobody waits for changes nothing."""
        number = reply.request.segment
        for channel in self._channels.values():
            for segment in channel.segments:
                if segment.number != number:
                    continue
                trace = [Send(each) for each in trace_messages(channel.index, reply)]
                if reply.request.is_final:
                    segment.reply = reply
                    return [*trace, *self._send_finals(channel)]
                return [*trace, *self._take_partial(channel, segment, reply)]
        return []

    def fail(self, error: Exception) -> list[Effect]:
        """End the session for ``error``, which is sent once the client has every final before."""
        if self._failure is not None or self.is_done:
            return []
        self._failure = error
        if self._state is State.STOPPING:
            return []  # the stop's barrier is waiting, and says this in the place of `done`
        self._state = State.STOPPING
        return self._wait_for_finals(None)

    def notify(self, code: str, message: str) -> list[Effect]:
        """Tell the client something that is not an error, while it can still be told."""
        return [] if self.is_done else [Send(Notice(code=code, message=message))]

    # --- in -----------------------------------------------------------------------------------

    def _advance(self, event: type | str, name: str) -> None:
        target = _TRANSITIONS[self._state].get(event)
        if target is None:
            raise RemoteProtocolError(
                "wrong_state", f"`{name}` may not be sent while {self._state.value}"
            )
        self._state = target

    def _bounded(self, endpointing: Endpointing) -> Endpointing:
        longest = self._policy.info.max_samples // _MILLISECOND
        if endpointing.max_segment_ms <= longest:
            return endpointing
        return msgspec.structs.replace(endpointing, max_segment_ms=longest)

    def _configure(self, message: Configure) -> list[Effect]:
        validate_configure(message, self._policy.info)
        if message.language is not None:
            self._language = message.language
        if message.partial_interval_ms is not None:
            self._interval = message.partial_interval_ms * _MILLISECOND
        if message.endpointing is not None:
            self._endpointing = self._bounded(message.endpointing)
            for channel in self._channels.values():
                channel.segmenter.configure(self._endpointing)
        return []

    def _channel(self, index: int) -> _Channel:
        # Made when first heard: a container says how many channels it has only in its header.
        if index not in self._channels:
            # A container may hold more channels than `start` says.
            places = dict(enumerate(self._places or ()))
            lead = Lead(self._origin, places.get(index))
            segmenter = Segmenter(self._endpointing, lead.end)
            self._channels[index] = _Channel(index, segmenter, self._origin, lead)
        return self._channels[index]

    def _apply(self, channel: _Channel, events: Sequence[SegmentEvent]) -> list[Effect]:
        effects: list[Effect] = []
        finals: list[Effect] = []
        for event in events:
            if isinstance(event, SpeechStarted):
                segment = _OpenSegment(self._next_number, heard=event.at)
                self._next_number += 1
                channel.segments.append(segment)
                effects.append(Send(SpeechStartedMessage(segment.number, channel.index, event.at)))
                continue
            segment = channel.segments[-1]
            if isinstance(event, Segment):
                finals += self._request_final(channel, segment, event)
            else:
                at = min(event.at, channel.received)
                effects.append(Send(SpeechEndedMessage(segment.number, channel.index, at)))
        # Last: whoever has the final of speech that was cut knows that it went on.
        return effects + finals

    # --- requests -----------------------------------------------------------------------------

    def _request_partial(self, channel: _Channel) -> list[Effect]:
        segment = channel.segments[-1] if channel.segments else None
        if segment is None or segment.audio is not None:
            return []
        end = channel.segmenter.likely_end
        if end is not None and self._policy.speculates:
            return self._guess_final(channel, segment, end)
        if not self._interval or segment.in_flight:
            return []
        is_shown = segment.transcript is not None and segment.transcript.revision
        interval = self._interval if is_shown else min(self._interval, _FIRST_PARTIAL)
        if channel.segmenter.position - segment.heard < interval:
            return []
        audio = channel.segmenter.snapshot()
        # In a pause nothing new is said: the snapshot ends with the speech.
        if audio is None or audio.end <= segment.heard:
            return []
        steps = min(self._policy.partial_steps, self._steps)
        return [self._submit_partial(segment, audio, steps, segment.draft)]

    def _guess_final(self, channel: _Channel, segment: _OpenSegment, end: int) -> list[Effect]:
        if segment.guess is not None and segment.guess.end == end:
            return []
        audio = channel.segmenter.snapshot(end)
        if audio is None:
            return []
        effects: list[Effect] = [Cancel(segment.number)] if segment.in_flight else []
        submit = self._submit_partial(segment, audio, self._steps, (), is_likely=True)
        segment.guess = _Guess(submit.request, end)
        return [*effects, submit]

    def _submit_partial(
        self,
        segment: _OpenSegment,
        audio: Segment,
        steps: int,
        draft: tuple[int, ...],
        *,
        is_likely: bool = False,
    ) -> Submit:
        segment.begin(audio)
        segment.heard = audio.end
        submit = self._submit(segment, audio, steps, draft, is_likely=is_likely)
        segment.in_flight = submit.request.revision
        return submit

    def _request_final(
        self, channel: _Channel, segment: _OpenSegment, audio: Segment
    ) -> list[Effect]:
        effects: list[Effect] = []
        segment.audio = audio
        segment.begin(audio)
        self._pending[segment.number] = channel
        guess = segment.guess
        if guess is not None and self._is_still_good(guess, audio):
            if guess.reply is not None:
                segment.reply = guess.reply
                return self._send_finals(channel)
            if segment.in_flight == guess.request.revision:
                guess.is_right = True
                return [Promote(segment.number)]
        if segment.in_flight:  # its rows are worth more to the final than what they would show
            effects.append(Cancel(segment.number))
        # No draft: what a partial got wrong in a few steps must not lead the final astray.
        effects.append(self._submit(segment, audio, self._steps, ()))
        return effects

    def _is_still_good(self, guess: _Guess, audio: Segment) -> bool:
        """Whether a guess decodes just what the final would.

        A flush may end a segment where the guess does, and yet with a pause to be made up.
        """
        is_same_audio = guess.end == audio.end and not audio.missing
        return is_same_audio and guess.request.utterance.language == self._language

    def _submit(
        self,
        segment: _OpenSegment,
        audio: Segment,
        steps: int,
        draft: tuple[int, ...],
        *,
        is_likely: bool = False,
    ) -> Submit:
        segment.revision += 1
        most, trace = self._policy.info.max_samples, self._start.trace
        utterance = audio.utterance(most, steps, self._language, draft=draft, trace=trace)
        return Submit(
            Request(
                stream=self._id,
                segment=segment.number,
                revision=segment.revision,
                is_final=audio.is_final,
                utterance=utterance,
                is_likely=is_likely,
            )
        )

    # --- out ----------------------------------------------------------------------------------

    def _take_partial(self, channel: _Channel, segment: _OpenSegment, reply: Reply) -> list[Effect]:
        if reply.request.revision == segment.in_flight:
            segment.in_flight = 0
        transcript, guess = segment.transcript, segment.guess
        if guess is not None and guess.request.revision == reply.request.revision:
            if isinstance(reply, Decoded):
                guess.reply = reply
            if guess.is_right and segment.audio is not None and segment.reply is None:
                return self._take_right_guess(channel, segment, segment.audio, reply)
        if not isinstance(reply, Decoded) or transcript is None or segment.reply is not None:
            return []  # the next partial, or the final, says it all
        segment.draft = reply.hypothesis.tokens
        end = transcript.start + len(reply.request.utterance.pcm)
        if segment.audio is not None and end > segment.audio.end:
            return []  # it was cut meanwhile: what is beyond belongs to the next segment
        if not self._interval or (not transcript.revision and not reply.hypothesis.words):
            return []  # nobody wants to see it, or there is nothing to show yet
        update = transcript.update(
            reply.hypothesis,
            min(end, channel.received),
            is_final=False,
            earliest_cut=channel.segmenter.earliest_cut if segment.audio is None else None,
        )
        return [Send(partial_message(segment.number, channel.index, update))]

    def _take_right_guess(
        self, channel: _Channel, segment: _OpenSegment, audio: Segment, reply: Reply
    ) -> list[Effect]:
        """Take the reply to a guess that the engine did not get to promote."""
        if isinstance(reply, Decoded):
            segment.reply = reply
            return self._send_finals(channel)
        return [self._submit(segment, audio, self._steps, ())]

    def _send_finals(self, channel: _Channel) -> list[Effect]:
        effects: list[Effect] = []
        while channel.segments and (reply := channel.segments[0].reply) is not None:
            segment = channel.segments.popleft()
            del self._pending[segment.number]
            assert segment.transcript is not None
            assert segment.audio is not None
            end = min(segment.audio.end, channel.received)
            if isinstance(reply, Decoded):
                update = segment.transcript.update(reply.hypothesis, end, is_final=True)
                final = final_message(channel.index, update, reply, with_words=self._start.words)
            else:
                update = segment.transcript.close(end)
                error, final = failed_final(
                    channel.index, update, reply, with_words=self._start.words
                )
                effects.append(Send(error))
            effects.append(Send(final))
            self._sent_finals += 1
            for barrier in self._barriers:
                barrier.waiting.discard(segment.number)
        return effects + self._lift_barriers()

    def _acknowledge(self) -> Send:
        self._acknowledged = self.position
        return Send(Ack(samples=self.position))

    def _wait_for_finals(self, flush: Flush | None) -> list[Effect]:
        effects: list[Effect] = []
        for channel in self._channels.values():
            effects += self._apply(channel, channel.segmenter.flush())
        effects.append(self._acknowledge())
        self._barriers.append(_Barrier(flush, self.position, set(self._pending)))
        return effects + self._lift_barriers()

    def _lift_barriers(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._barriers and not self._barriers[0].waiting:
            barrier = self._barriers.popleft()
            if barrier.flush is not None:
                effects.append(Send(Flushed(position=barrier.position, id=barrier.flush.id)))
                continue
            self._state = State.DONE
            if self._failure is not None:
                error = msgspec.structs.replace(error_message(self._failure), fatal=True)
                close = Close(wire_error(self._failure).close_code, error.code)
                effects += [Send(error), close]
            else:
                done = Done(samples=barrier.position, segments=self._sent_finals)
                effects += [Send(done), Close(1000, "done")]
        return effects


def _segment(channel: _Channel, pcm: Pcm, speech: Sequence[float]) -> list[SegmentEvent]:
    """Give frames to the segmenter of a channel, without those of its lead."""
    lead, events = channel.lead, list[SegmentEvent]()
    count = lead.pass_over(speech)
    if lead.is_speaking and lead.is_over:
        lead.is_speaking = False
        events += channel.segmenter.go_on(lead.heard)
    return events + channel.segmenter.feed(pcm[count * FRAME :], speech[count:])


__all__ = ["Session", "SessionPolicy", "State"]
