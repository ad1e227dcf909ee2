"""A final depends on its audio alone: not on the pace, nor on what partials there were."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_protocol.messages import Endpointing, Final, Flush, Partial, Start, Stop
from stream_server.recogniser.interface import Pcm
from stream_server.scheduler.request import Decoded, Dropped, Reply, Request
from stream_server.segmenter.segmenter import FRAME
from stream_server.session.effects import Cancel, Effect, Promote, Submit
from stream_server.session.session import Session
from tests.server.session.stream import POLICY, decoded, sent

SPECULATIVE = replace(POLICY, speculates=True)


def decode(request: Request) -> Decoded:
    """Say other words for each second of audio, and for whatever else is asked."""
    said = request.utterance
    settings = repr((said.steps, said.draft, said.seed, said.language)).encode()
    number = zlib.crc32(said.pcm.tobytes() + settings)
    seconds = len(said.pcm) // (50 * FRAME)
    words = " ".join(f"{word}/{seconds}" for word in range(seconds + 2))
    return decoded(request, f"{words} {number}", tokens=(number,))


@dataclass
class Pace:
    """How a stream comes, and how soon it is answered."""

    chunks: Sequence[int]
    """Frames that come at once, over and over."""
    delays: Sequence[int]
    """Frames from a request to its reply, over and over."""
    promotes: bool = True
    """Whether the engine is in time to make a guess the final."""


AT_ONCE = Pace([100_000], [0])


class Engine:
    """Answers requests in their order, each when it is due."""

    def __init__(self, pace: Pace) -> None:
        self._delays: Iterator[int] = cycle(pace.delays)
        self._promotes = pace.promotes
        self._waiting: deque[tuple[int, Request]] = deque()

    def take(self, effects: Sequence[Effect], now: int) -> list[Reply]:
        """Perform what is asked of an engine; return what it answers at once."""
        dropped: list[Reply] = []
        for effect in effects:
            match effect:
                case Submit(request):
                    self._waiting.append((now + next(self._delays), request))
                case Cancel(segment):
                    dropped += [
                        Dropped(each, "cancelled") for _, each in self._waiting
                        if each.segment == segment
                    ]  # fmt: skip
                    self._waiting = deque(w for w in self._waiting if w[1].segment != segment)
                case Promote(segment) if self._promotes:
                    self._waiting = deque(
                        (due, replace(each, is_final=True) if each.segment == segment else each)
                        for due, each in self._waiting
                    )
        return dropped

    def answer(self, now: int | None) -> Reply | None:
        """Return the oldest reply that is due, whatever its time where none is given."""
        if not self._waiting or (now is not None and self._waiting[0][0] > now):
            return None
        return decode(self._waiting.popleft()[1])


def play(speech: Sequence[float], flushes: set[int], start: Start, pace: Pace) -> list[Effect]:
    """Play a stream to its end; return all that the session did.

    Args:
        speech: of each frame.
        flushes: frames before which a flush comes.
        start: of the stream.
        pace: of it.
    """
    noise = np.random.default_rng(0).uniform(-1, 1, len(speech) * FRAME)
    pcm: Pcm = noise.astype(np.float32)
    session, engine = Session("s1", start, SPECULATIVE), Engine(pace)
    effects = list(session.open())

    def perform(new: list[Effect], now: int | None) -> None:
        effects.extend(new)
        replies = deque(engine.take(new, now or 0))
        while reply := replies.popleft() if replies else engine.answer(now):
            new = session.receive_reply(reply)
            effects.extend(new)
            replies.extend(engine.take(new, now or 0))

    chunks, at = cycle(pace.chunks), 0
    while at < len(speech):
        if at in flushes:
            perform(session.receive_message(Flush()), at)
        end = min([at + next(chunks), len(speech), *(each for each in flushes if each > at)])
        perform(session.receive_audio(0, pcm[at * FRAME : end * FRAME], speech[at:end]), end)
        at = end
    perform(session.receive_message(Stop()), None)
    assert session.is_done
    return effects


def finals(effects: Sequence[Effect]) -> list[tuple[int, int, str]]:
    """Return the place and the text of each final."""
    said = [each for each in sent(effects, Final) if isinstance(each, Final)]
    return [(each.start, each.end, each.text) for each in said]


def test_a_final_says_what_its_audio_says_not_what_partials_said_before() -> None:
    """Partials become stable and are wrong; without them the same is said in the end."""
    speech = [0.0] * 10 + [1.0] * 150 + [0.0] * 50
    live = play(speech, set(), Start(partial_interval_ms=200), Pace([5], [2]))
    partials = [each for each in sent(live, Partial) if isinstance(each, Partial)]
    ((_, _, text),) = finals(live)
    assert partials[-1].stable
    assert not text.startswith(partials[-1].stable)
    assert finals(live) == finals(play(speech, set(), Start(partial_interval_ms=0), AT_ONCE))


runs = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(1, 60)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    runs=runs,
    flushes=st.sets(st.integers(1, 300), max_size=3),
    silence_ms=st.sampled_from([200, 400, 500, 700]),
    pace=st.builds(
        Pace,
        st.lists(st.integers(1, 40), min_size=1, max_size=4),
        st.lists(st.integers(0, 60), min_size=1, max_size=4),
        st.booleans(),
    ),
)
@example(
    # A click in the pause, and a flush just where the pause is taken for the end.
    runs=[(1.0, 30), (0.0, 5), (1.0, 1), (0.0, 4)],
    flushes={40},
    silence_ms=500,
    pace=Pace([5], [0]),
)
def test_the_pace_changes_no_final(
    runs: list[tuple[float, int]], flushes: set[int], silence_ms: int, pace: Pace
) -> None:
    speech = [each for each, count in runs for _ in range(count)] + [0.0] * 5
    endpointing = Endpointing(silence_ms=silence_ms, max_segment_ms=2000)
    start = Start(partial_interval_ms=100, endpointing=endpointing)
    live = play(speech, flushes, start, pace)
    assert finals(live) == finals(play(speech, flushes, start, AT_ONCE))
