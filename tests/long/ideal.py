"""Streams through a session in this process, as on a machine that is never late.

Whatever is asked of the model is answered before the next piece of audio comes, so there are as
many partials as there can be, however busy this machine is. No server, no socket, no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from stream_protocol.messages import Limits, Start, Stop
from stream_server.config import RecogniserConfig
from stream_server.recogniser.interface import Recogniser, run_to_end
from stream_server.scheduler.request import Decoded, Request
from stream_server.session.effects import Cancel, Effect, Promote, Send, Submit
from stream_server.session.intake import Intake
from stream_server.session.session import Session, SessionPolicy
from tests.long.play import Heard

_LIMITS = Limits(
    max_message_bytes=1 << 20, max_unprocessed_ms=10_000, idle_timeout_ms=0, max_session_ms=0
)


class IdealStream:
    """One stream.

    Args:
        recogniser: warm.
        config: of its steps.
    """

    def __init__(self, recogniser: Recogniser, config: RecogniserConfig) -> None:
        policy = SessionPolicy(
            recogniser.info, _LIMITS, "token", config.steps, config.partial_steps
        )
        self._recogniser = recogniser
        self._session = Session("ideal", Start(), policy)
        self._intake = Intake(Start(), 2)
        self._waiting: deque[Request] = deque()
        self._heard = Heard()

    def play(self, audio: bytes, piece: int) -> Heard:
        """Play audio to its end.

        Args:
            audio: 16 kHz mono s16le.
            piece: bytes that come at once.
        """
        self._perform(self._session.open())
        for at in range(0, len(audio), piece):
            self._hear(audio[at : at + piece])
        self._hear(None)
        self._perform(self._session.receive_message(Stop()))
        self._answer()
        assert self._session.is_done
        return self._heard

    def _hear(self, data: bytes | None) -> None:
        for each in self._intake.finish() if data is None else self._intake.feed(data):
            self._perform(
                self._session.receive_audio(each.channel, each.pcm, each.speech, each.samples)
            )
        self._answer()

    def _answer(self) -> None:
        while self._waiting:
            request = self._waiting.popleft()
            (said,) = run_to_end(self._recogniser, self._recogniser.start([request.utterance]))
            self._perform(self._session.receive_reply(Decoded(request, said, 0.0, 0.0)))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    self._heard.take(message)
                case Submit(request):
                    self._waiting.append(request)
                case Cancel(segment):
                    kept = (each for each in self._waiting if each.segment != segment)
                    self._waiting = deque(kept)
                case Promote(segment):
                    self._waiting = deque(
                        replace(each, is_final=True) if each.segment == segment else each
                        for each in self._waiting
                    )


__all__ = ["IdealStream"]
