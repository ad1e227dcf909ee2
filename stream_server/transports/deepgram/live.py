"""Deepgram's live conversation, ``/v1/listen``: its messages to a session's and back.

Windows of results follow one another without a gap, as Deepgram's do: each begins where the final
before it ended. A ``Finalize`` is answered on every channel by exactly one result that says
``from_finalize``; to give that mark to the right one, a final that comes while an answer is owed
is held until the next message tells whether it was the last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from stream_protocol import messages as native
from stream_protocol.errors import RemoteProtocolError
from stream_server.recogniser.interface import SAMPLE_RATE, RecogniserInfo
from stream_server.transports.deepgram import messages as deepgram
from stream_server.transports.deepgram.query import LiveQuery
from stream_server.transports.dialect import NOTHING, Call, Heard, read_control
from stream_server.transports.opening import AudioFormat, Inlet
from stream_server.transports.turns import Cuts
from stream_server.transports.words import bare, mean_confidence, partial_words, seconds

_MILLISECOND = SAMPLE_RATE // 1000
_CLOSINGS = {
    "done": (1000, ""),
    "bad_audio": (1008, "DATA-0000: the audio cannot be decoded"),
    "timeout": (1011, "NET-0001: no audio and no KeepAlive came in time"),
}


class _Control(msgspec.Struct, frozen=True):
    type: str
    keyterms: list[str] | None = None


@dataclass(slots=True)
class _Channel:
    """What is known of one channel."""

    window: int = 0
    """Samples; where the next result begins."""
    running: dict[int, int] = field(default_factory=dict)
    """Segments without a final, oldest first, and where each began (samples)."""
    is_open: bool = False
    """Whether something was said or announced since the last end of speech that was reported."""
    last_word_end: int | None = None
    """Samples; none once the end of the utterance was reported."""
    held: deepgram.Results | None = None
    """A final that may be the answer to ``Finalize``."""


class LiveDialect:
    """The translator of one live connection.

    Args:
        query: what the client asked for.
        call: the connection.
        info: the model.
    """

    def __init__(self, query: LiveQuery, call: Call, info: RecogniserInfo) -> None:
        self._query = query
        self._call = call
        self._info = info
        self._inlet = Inlet(query.audio, self._make_start)
        self._hash = hashlib.sha256()
        self._is_stopping = False
        self._flushes = 0
        """Answers owed to ``Finalize``."""
        self._cuts = Cuts()
        self._channels = [_Channel()]
        self._clock = 0
        """Samples; how far the session has heard for certain."""

    def open(self) -> Heard:
        """Open the session where the audio is known."""
        return Heard(self._inlet.open())

    def hear(self, frame: str | bytes) -> Heard:
        """Take a frame of the client.

        Raises:
            BadAudio: it is nothing that can be decoded.
        """
        if self._is_stopping:
            return NOTHING
        if isinstance(frame, bytes):
            if not frame:
                return self._stop()
            self._hash.update(frame)
            return Heard(self._inlet.feed(frame))
        try:
            control = read_control(frame, _Control)
        except RemoteProtocolError as error:
            return Heard(replies=[deepgram.ErrorReply("SchemaError", str(error), frame[:1000])])
        return self._obey(control)

    def tell(self, message: native.ServerMessage) -> Sequence[msgspec.Struct]:
        """Return what the client is told of a message of the session."""
        match message:
            case native.Ack():
                self._clock = message.samples
                return self._utterance_ends()
            case native.SpeechStarted():
                return self._start_speech(message)
            case native.SpeechEnded():
                self._cuts.ended(message)
            case native.Partial():
                return [*self._release(), *self._interim(message)]
            case native.Final():
                return self._final(message)
            case native.Flushed():
                return self._finalized()
            case native.Error() if message.fatal:
                return [
                    *self._release(),
                    deepgram.ErrorReply(message.code, message.message, message.message),
                ]
            case native.Done():
                return [*self._release(), self._metadata(message)]
        return []

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return Deepgram's close code and reason."""
        return _CLOSINGS.get(reason, (code, reason))

    # --- in -----------------------------------------------------------------------------------

    def _make_start(self, audio: AudioFormat) -> native.Start:
        query = self._query
        if query.is_multichannel:
            self._channels = [_Channel() for _ in range(audio.channels)]
        return audio.start(
            endpointing=query.endpointing,
            language=query.language,
            partial_interval_ms=native.Start().partial_interval_ms if query.has_interims else 0,
            channel_mode="split" if query.is_multichannel else "mix",
        )

    def _obey(self, control: _Control) -> Heard:
        is_started = self._inlet.format is not None
        match control.type:
            case "CloseStream":
                return self._stop()
            case "Finalize":
                self._flushes += 1
                if not is_started:
                    return Heard(replies=self._finalized())
                return Heard([native.Flush()])
            case "KeepAlive":
                # It changes nothing, and the session has heard from the client.
                return Heard([native.Configure()]) if is_started else NOTHING
            case "Configure":
                terms = control.keyterms or []
                return Heard(replies=[deepgram.ConfigureSuccess(self._call.request_id, terms)])
        return NOTHING

    def _stop(self) -> Heard:
        self._is_stopping = True
        return Heard(self._inlet.stop())

    # --- out ----------------------------------------------------------------------------------

    def _channel(self, index: int) -> _Channel:
        # Of a container it is known only now how many there are.
        while index >= len(self._channels):
            self._channels.append(_Channel())
        return self._channels[index]

    def _start_speech(self, message: native.SpeechStarted) -> list[msgspec.Struct]:
        self._cuts.started(message)
        channel = self._channel(message.channel)
        replies = self._release()
        self._clock = max(self._clock, message.at)
        channel.running[message.segment] = message.at
        replies += self._utterance_ends()
        if self._query.has_vad_events:
            channel.is_open = True  # clients wait for the end of what was announced
            place = [message.channel, len(self._channels)]
            replies.append(deepgram.SpeechStarted(place, seconds(message.at)))
        return replies

    def _interim(self, partial: native.Partial) -> list[msgspec.Struct]:
        channel = self._channel(partial.channel)
        # A result replaces the interim before it, so only the oldest segment may have some.
        if next(iter(channel.running), None) != partial.segment:
            return []
        text, words = partial.stable + partial.tentative, partial_words(partial)
        channel.is_open = channel.is_open or bool(text)
        return [self._results(partial.channel, partial.end, text, words, None)]

    def _final(self, final: native.Final) -> list[msgspec.Struct]:
        channel = self._channel(final.channel)
        replies = self._release_one(channel)
        channel.running.pop(final.segment, None)
        words = final.words or []
        channel.is_open = channel.is_open or bool(final.text)
        results = self._results(final.channel, final.end, final.text, words, final.language)
        was_cut = self._cuts.pop(final.segment)
        is_end = channel.is_open and self._query.is_endpointed and not was_cut
        results = msgspec.structs.replace(results, is_final=True, speech_final=is_end)
        channel.is_open = channel.is_open and not is_end
        channel.window = max(channel.window, final.end)
        channel.last_word_end = words[-1].end if words else channel.last_word_end
        if self._flushes:
            channel.held = results
            return replies
        return [*replies, results, *self._utterance_ends()]

    def _finalized(self) -> list[msgspec.Struct]:
        self._flushes -= 1
        replies: list[msgspec.Struct] = []
        for index, channel in enumerate(self._channels):
            held, channel.held = channel.held, None
            if held is None:
                held = self._results(index, max(channel.window, self._clock), "", [], None)
                channel.window = max(channel.window, self._clock)
            is_end = held.speech_final or channel.is_open
            channel.is_open = False
            replies.append(
                msgspec.structs.replace(
                    held, is_final=True, speech_final=is_end, from_finalize=True
                )
            )
        return [*replies, *self._utterance_ends()]

    def _release(self) -> list[msgspec.Struct]:
        return [results for channel in self._channels for results in self._release_one(channel)]

    def _release_one(self, channel: _Channel) -> list[msgspec.Struct]:
        held, channel.held = channel.held, None
        return [] if held is None else [held]

    def _utterance_ends(self) -> list[msgspec.Struct]:
        query, replies = self._query, list[msgspec.Struct]()
        if not (query.utterance_end_ms and query.has_interims):
            return replies
        for index, channel in enumerate(self._channels):
            end = channel.last_word_end
            if end is None or channel.held is not None:
                continue
            # Silence lasts until the next segment; its own words are not known yet.
            silent_until = min([self._clock, *channel.running.values()])
            if silent_until - end >= query.utterance_end_ms * _MILLISECOND:
                channel.last_word_end = None
                place = [index, len(self._channels)]
                replies.append(deepgram.UtteranceEnd(place, seconds(end)))
        return replies

    def _results(
        self, index: int, end: int, text: str, words: list[native.Word], language: str | None
    ) -> deepgram.Results:
        start = self._channel(index).window
        is_punctuated = self._query.is_punctuated
        alternative = deepgram.Alternative(
            transcript=text.strip() if is_punctuated else bare(text),
            confidence=round(mean_confidence(words), 4),
            words=deepgram.spoken_words(words, is_punctuated=is_punctuated),
            languages=[language] if language else [],
        )
        return deepgram.Results(
            channel_index=[index, len(self._channels)],
            start=seconds(start),
            duration=seconds(max(0, end - start)),
            is_final=False,
            speech_final=False,
            from_finalize=False,
            channel=deepgram.Channel([alternative]),
            metadata=self._result_metadata,
        )

    @property
    def _result_metadata(self) -> deepgram.ResultMetadata:
        name = self._info.name
        return deepgram.ResultMetadata(
            self._call.request_id, deepgram.model_info(name), deepgram.model_id(name)
        )

    def _metadata(self, done: native.Done) -> deepgram.Metadata:
        return deepgram.metadata(
            deepgram.Metadata,
            self._call,
            self._info.name,
            sha256=self._hash.hexdigest(),
            duration=seconds(done.samples),
            channels=len(self._channels),
        )


__all__ = ["LiveDialect"]
