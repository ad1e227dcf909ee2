"""A recording of people, put together from clips, and the check that their words came through."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import numpy.typing as npt
import soundfile

from stream_server.audio import decode_file
from stream_server.evaluation.manifest import Example, Selection, read_audio, read_examples
from stream_server.evaluation.scoring import normaliser
from stream_server.training.recipe import read_recipe

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
RECIPE = ROOT / "stream_server" / "training" / "recipes" / "embedded_en.toml"
UTTERANCES: Sequence[tuple[str, Sequence[str]]] = (
    ("fsdd", [f"{digit}_jackson_{digit}.opus" for digit in (9, 8, 7, 6, 5)]),
    ("grid_s1", ["grid_s1_swwp4p.opus"]),
    ("robotutor", ["ffc2c50f5336.opus"]),
    ("kathleen", ["arctic_b0517_1592525698.opus"]),
    ("fsdd", [f"{digit}_jackson_1{digit}.opus" for digit in (5, 9, 0, 7, 2)]),
    ("robotutor", ["fdaafc23d23d.opus"]),
    ("grid_s1", ["grid_s1_swiu5s.opus"]),
)
"""Clips that the training of the embedded model left out, and mostly ones that it hears well: what
these tests are about is the way from the client to the model and back, not the model."""
RATE = 16_000
PAUSE_SECONDS, DIGIT_GAP_SECONDS, BREATH_SECONDS = 1.2, 0.05, 0.15
MOST_WRONG = 0.25
"""Word error rate. Files give 0.07, live streams up to 0.11: most APIs cannot take back a word of a
wrong partial."""
LEAST_HEARD = 0.5
"""Of the words of each utterance, so that none of them may be lost."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Voices that speak one after another, a pause after each."""

    said: tuple[str, ...]
    """What each said."""
    samples: npt.NDArray[np.int16]
    """At 16 kHz."""
    starts: tuple[float, ...]
    """Seconds at which each clip begins."""

    @staticmethod
    def is_but_for_corrections(pieces: str, text: str) -> bool:
        """Whether pieces that were appended say what the final text does.

        But for stable words that a final corrected, which are few, and stay in the pieces.
        """
        one, other = ("".join(each.split()) for each in (pieces, text))
        return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio() > 0.95

    def first(self, count: int) -> Recording:
        """Return its first utterances alone; all of it where there are no more."""
        if count >= len(self.starts):
            return self
        samples = self.samples[: int(self.starts[count] * RATE)]
        return Recording(self.said[:count], samples, self.starts[:count])

    def write(self, path: Path) -> Path:
        """Write it to a file, of the kind that its name says: wav, mp3 or opus."""
        kind = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
        soundfile.write(str(path), self.samples, RATE, **kind)
        return path

    def check(self, texts: Sequence[str], utterances: int | None = None) -> None:
        """Check that ``texts`` together are what was said, but for words that the model mishears.

        Args:
            texts: what was heard, in order.
            utterances: how many of the first are meant; all where none is given.

        Raises:
            AssertionError: too many words are wrong, or an utterance is missing.
        """
        normal = normaliser("en", spelled=True)
        right = [normal(text).split() for text in self.said[:utterances]]
        heard = normal(" ".join(texts)).strip()
        words = jiwer.process_words(" ".join(word for each in right for word in each), heard)
        assert words.wer <= MOST_WRONG, f"{words.wer:.0%} of the words are wrong: {texts}"
        hits = {
            index
            for chunk in words.alignments[0]
            if chunk.type == "equal"
            for index in range(chunk.ref_start_idx, chunk.ref_end_idx)
        }
        at = 0
        for each in right:
            share = sum(index in hits for index in range(at, at + len(each))) / len(each)
            assert share >= LEAST_HEARD, f"{' '.join(each)!r} is not in {texts}"
            at += len(each)


def left_out(speech: Path, sets: Iterable[str], limit: int = 0) -> dict[tuple[str, str], Example]:
    """Return the clips of some sets that training left out, by the names of set and file.

    Args:
        speech: the folder of all sets.
        sets: names of folders in it.
        limit: at most so many of each, evenly picked; 0 is all.
    """
    selection = Selection(limit=limit, recipe=read_recipe(RECIPE))
    return {
        (name, example.audio.name if example.audio else ""): example
        for name in sets
        for example in read_examples(speech / name / "manifest.jsonl", selection)
    }


def join(clips: Sequence[Example]) -> tuple[npt.NDArray[np.int16], str]:
    """Return what one person says in a turn, with a breath between clips, and its text."""
    pieces = []
    for clip in clips:
        samples, rate = soundfile.read(clip.audio, dtype="int16")
        assert rate == RATE
        pieces += [samples, np.zeros(int(BREATH_SECONDS * RATE), np.int16)]
    return np.concatenate(pieces[:-1]), " ".join(clip.text or "" for clip in clips)


def record(speech: Path) -> Recording:
    """Put the recording together.

    Args:
        speech: the folder of all sets.

    Raises:
        KeyError: a clip is not among those that training left out.
    """
    clips = left_out(speech, {name for name, _ in UTTERANCES})
    gap, pause = (np.zeros(int(RATE * s), np.float32) for s in (DIGIT_GAP_SECONDS, PAUSE_SECONDS))
    pieces, said, starts = [pause[: RATE // 2]], [], []
    for name, files in UTTERANCES:
        examples = [clips[name, file] for file in files]
        said.append(" ".join(example.text or "" for example in examples))
        starts.append(sum(map(len, pieces)) / RATE)
        audio = [part for example in examples for part in (read_audio(example), gap)]
        loudest = max(np.abs(part).max() for part in audio)
        pieces += [*(part * (0.3 / loudest) for part in audio), pause]
    samples = (np.concatenate(pieces) * 32767).astype(np.int16)
    return Recording(tuple(said), samples, tuple(starts))


def bundled() -> Recording:
    """Return the clip in the repository, which is synthetic, with a pause after it."""
    said = (DATA / "digits.txt").read_text(encoding="utf-8").splitlines()
    samples = np.pad(decode_file((DATA / "digits.opus").read_bytes()), (0, RATE))
    return Recording(tuple(said), (samples * 32767).astype(np.int16), (0.4, 3.5, 5.8))
