"""What the tests of the session share: one that is fed speech and silence, and its effects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_protocol.messages import (
    Limits,
    Start,
)
from stream_server.recogniser.interface import (
    Hypothesis,
    HypothesisWord,
    RecogniserInfo,
)
from stream_server.scheduler.request import Decoded, Request
from stream_server.segmenter.segmenter import FRAME
from stream_server.session.effects import Effect, Send, Submit
from stream_server.session.session import Session, SessionPolicy

INFO = RecogniserInfo("tiny", ("en",), 20 * 16_000, 8, 8)
POLICY = SessionPolicy(INFO, Limits(1000, 10_000, 60_000, 0), "token", 8, 3, speculates=False)


def hypothesis(text: str, tokens: tuple[int, ...] = (1,)) -> Hypothesis:
    words = tuple(
        HypothesisWord(f" {word}" if index else word, 0.9)
        for index, word in enumerate(text.split())
    )
    return Hypothesis(tokens, (0.9,) * len(tokens), words, step=8, is_final=True)


def decoded(request: Request, text: str, tokens: tuple[int, ...] = (1,)) -> Decoded:
    return Decoded(request, hypothesis(text, tokens), 1.0, 2.0)


def sent(effects: Sequence[Effect], kind: type | None = None) -> list[object]:
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    return [each for each in messages if kind is None or isinstance(each, kind)]


def requests(effects: Sequence[Effect], *, final: bool) -> list[Request]:
    every = [effect.request for effect in effects if isinstance(effect, Submit)]
    return [request for request in every if request.is_final is final]


class Stream:
    """A session being fed frames of speech and silence."""

    def __init__(self, start: Start | None = None, policy: SessionPolicy = POLICY) -> None:
        self.session = Session("s1", start or Start(), policy)
        self.effects: list[Effect] = list(self.session.open())

    def hear(self, milliseconds: int, speech: float, channel: int = 0) -> list[Effect]:
        """Feed in chunks of 100 ms, the count a multiple of it."""
        effects: list[Effect] = []
        for _ in range(milliseconds // 100):
            pcm = np.full(5 * FRAME, speech, np.float32)
            effects += self.session.receive_audio(channel, pcm, [speech] * 5)
        self.effects += effects
        return effects

    def word(self) -> Request:
        """Say a word of 600 ms and wait for its pause; return the final request."""
        (request,) = requests(self.hear(600, 1.0) + self.hear(600, 0.0), final=True)
        return request
