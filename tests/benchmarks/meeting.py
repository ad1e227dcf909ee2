"""Three people who often speak at once: words and speakers of a meeting beside single streams.

`python tests/with_server.py -- python -m tests.benchmarks.meeting` prints a line for each way.
The turns are clips that the embedded model's training left out (`../shared/speech`); each begins
while the one before it is still going on, or a moment after.
"""

from __future__ import annotations

import asyncio
import os

import numpy as np

from stream_client.client import connect
from stream_client.meeting import Meeting, Mixing
from stream_client.timeline import Utterance
from stream_protocol.messages import Final, Start
from stream_server.evaluation.scoring import Pair, score
from tests.long.speech import SPEECH
from tests.recording import RATE, join, left_out

SETS = {"Grid": "grid_s1", "Rob": "robotutor", "Jack": "fsdd"}
TURNS = 15
"""Of each."""
DIGITS = 4
"""Clips of a turn of single digits."""
STEP = 2 * RATE


def read_turns(name: str, folder: str) -> list[tuple[np.ndarray, str]]:
    """Return what somebody says: samples and text of each turn."""
    size = DIGITS if folder == "fsdd" else 1
    clips = list(left_out(SPEECH, [folder], limit=TURNS * size).values())
    if size > 1:
        np.random.default_rng(1).shuffle(clips)
    groups = [clips[at : at + size] for at in range(0, len(clips), size)]
    return [join(group) for group in groups]


class Talk:
    """Who says what when."""

    def __init__(self) -> None:
        chance = np.random.default_rng(2)
        turns = {name: read_turns(name, folder) for name, folder in SETS.items()}
        self.spans: dict[str, list[tuple[int, int]]] = {name: [] for name in SETS}
        self.said = {name: " ".join(text for _, text in turns[name]) for name in SETS}
        clock, placed = RATE // 2, []
        for number in range(TURNS):
            for name in chance.permutation(list(SETS)):
                pcm, _ = turns[name][number]
                own = self.spans[name]
                start = max(clock, own[-1][1] + RATE if own else 0)
                own.append((start, start + len(pcm)))
                placed.append((name, start, pcm))
                clock = start + int(len(pcm) * chance.uniform(0.4, 1.1))
        length = max(start + len(pcm) for _, start, pcm in placed) + RATE
        tracks = {name: np.zeros(length, np.int16) for name in SETS}
        for name, start, pcm in placed:
            tracks[name][start : start + len(pcm)] = pcm
        self.tracks = {name: track.tobytes() for name, track in tracks.items()}
        self.seconds = length / RATE

    def error_rates(self, heard: dict[str, str]) -> str:
        """Return the word error rate of each speaker."""
        rates = (
            score([Pair(self.said[name], text, "en")], spelled=True).word.value
            for name, text in heard.items()
        )
        return ", ".join(f"{name} {rate:.1%}" for name, rate in zip(heard, rates, strict=True))

    def is_wrong(self, said: Utterance) -> bool:
        """Whether somebody else than its speaker speaks in the middle of an utterance."""
        middle, slack = (said.start + said.end) / 2, RATE / 2
        spans = self.spans[said.speaker]
        return not any(start - slack <= middle <= end + slack for start, end in spans)


async def hear_alone(url: str, track: bytes) -> str:
    """Return what comes of a track in a stream of its own."""
    async with connect(url, Start(language="en")) as stream:

        async def play() -> None:
            for at in range(0, len(track), STEP):
                await stream.send(track[at : at + STEP])
            await stream.stop()

        playing = asyncio.create_task(play())
        texts = [message.text async for message in stream if isinstance(message, Final)]
        await playing
        return " ".join(texts)


async def hear_meeting(url: str, talk: Talk, mixed: Mixing) -> tuple[Utterance, ...]:
    """Return what comes of all tracks in a meeting."""
    async with Meeting(url, Start(words=True, language="en"), mixed=mixed) as meeting:

        async def play(name: str, track: bytes) -> None:
            participant = await meeting.add(name, at=0)
            for at in range(0, len(track), STEP):
                await participant.send(track[at : at + STEP])
            await participant.leave()

        async def play_all() -> None:
            await asyncio.gather(*(play(name, track) for name, track in talk.tracks.items()))
            await meeting.end()

        playing = asyncio.create_task(play_all())
        async for _ in meeting:
            pass
        await playing
        return meeting.timeline.utterances


async def main(url: str) -> None:
    """Print a line for each way."""
    talk = Talk()
    print(f"{talk.seconds:.0f} s, {len(SETS) * TURNS} turns")
    alone = {name: await hear_alone(url, track) for name, track in talk.tracks.items()}
    print(f"single streams: {talk.error_rates(alone)}")
    ways: dict[str, Mixing] = {"a meeting": "never", "mixed": "always"}
    for way, mixed in ways.items():
        said = await hear_meeting(url, talk, mixed)
        heard = {
            name: " ".join(each.text for each in said if each.speaker == name) for name in SETS
        }
        wrong = sum(map(talk.is_wrong, said))
        print(f"{way}: {talk.error_rates(heard)}; {wrong} of {len(said)} with a wrong speaker")


if __name__ == "__main__":
    asyncio.run(main(os.environ["DIFFSCRIBE_URL"]))
