"""Stop streams 50 ms after their last word; the word must be there.

    python -m tests.long.lastword --clips 200

Each recording is played whole first, with a second of silence behind it: its last word is the last
of that transcript. Where the word ends is looked for in the sound, since the times of words are
those of the frames of the model: the last 10 ms, from the word's own start to 300 ms after its own
end, that are louder than 40 dB under the loudest of the word and than 10 dB over the quietest of
the recording. The recording is cut 50 ms later, played again and stopped. The last word of that
transcript must be the same, or another in its place: a model that is unsure how a word is spelled
may change its mind with any change of the sound. So a word counts as lost where the last one is
another (under half of the letters are the same) and the transcript has fewer words than the whole
one. The exit status is 0 where none is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from difflib import SequenceMatcher

import numpy as np

from stream_protocol.messages import Start, Word
from tests.long.play import Heard, play
from tests.long.recordings import RATE, Samples, clips, to_pcm16
from tests.long.servers import serving

_BLOCK = RATE // 100
_AFTER = 3 * RATE // 10
"""Samples after the end that the model gives in which the sound of a word may end."""
_SILENCE = np.zeros(RATE, np.float32)
_LONGEST = 30 * RATE


def sound_end(clip: Samples, word: Word) -> int:
    """Return where the sound of the last word ends, in samples."""
    blocks = clip[: len(clip) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    levels = 10 * np.log10(np.square(blocks, dtype=np.float64).mean(axis=1) + 1e-9)
    first = min(word.start // _BLOCK, len(levels) - 1)
    last = min((word.end + _AFTER) // _BLOCK, len(levels))
    own = levels[first:last]
    loud = np.flatnonzero((own > own.max() - 40) & (own > np.percentile(levels, 5) + 10))
    return (first + int(loud[-1]) + 1 if len(loud) else last) * _BLOCK


def last_word(heard: Heard) -> str:
    """Return the last word of a transcript, as it is spoken; nothing where there is none."""
    if not heard.words:
        return ""
    return "".join(each for each in heard.words[-1].lower() if each.isalnum() or each == "'")


def is_alike(one: str, other: str) -> bool:
    """Return whether two words are mostly of the same letters."""
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= 0.5


async def check(url: str, clip: Samples, stop_after: int) -> tuple[Heard, Heard] | None:
    """Play a clip whole and cut, and return what was heard; none where nothing is said."""
    start = Start(words=True, partial_interval_ms=0)
    whole = await play(url, to_pcm16(np.concatenate([clip, _SILENCE])), start)
    words = [word for final in whole.finals for word in final.words or []]
    if not words:
        return None
    end = sound_end(clip, words[-1]) + stop_after
    cut = await play(url, to_pcm16(clip[:end]), start)
    return whole, cut


def recordings(seed: int) -> Iterator[Samples]:
    """Yield recordings that are not longer than a person speaks at once."""
    return (clip for clip in clips(seed) if len(clip) <= _LONGEST)


async def run(arguments: argparse.Namespace) -> int:
    """Check the clips; return 0 where the last word is there in all."""
    there = same = checked = silent = 0
    async with serving(1, ["--model", arguments.model]) as (server,):
        url = f"ws://127.0.0.1:{server.port}/v1/stream"
        for clip in recordings(arguments.seed):
            heard = await check(url, clip, arguments.stop_after * RATE // 1000)
            if heard is None:
                silent += 1
                continue
            checked += 1
            whole, cut = heard
            is_same = last_word(whole) == last_word(cut)
            is_there = is_alike(last_word(whole), last_word(cut)) or (
                len(cut.words) >= len(whole.words)
            )
            same, there = same + is_same, there + is_there
            if not is_same:
                fate = "became" if is_there else "WAS LOST before"
                print(f"clip {checked}: {last_word(whole)!r} {fate} {last_word(cut)!r}", flush=True)
            if checked == arguments.clips:
                break
    print(
        f"the last word is there in {there} of {checked} clips stopped {arguments.stop_after} ms "
        f"after it, and spelled the same in {same} ({arguments.model}; {silent} more had no text)"
    )
    return 0 if there == checked else 1


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--stop-after", type=int, default=50, help="milliseconds after the word")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seed", type=int, default=0)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
