"""Words to phones, by espeak-ng, for the auxiliary CTC in the middle of the encoder.

English spelling hides its sounds; phones lie close to the audio, so a CTC of them is learnt
hundreds of updates before one of pieces of words, and opens the way to it (training/LOG.md).
The words are spoken of one by one, without stress or length.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

_MARKS = re.compile("[\u02c8\u02cc\u02d0\u0329]")
"""Stress, length, and syllabic consonants."""
_LETTERS: Mapping[str, str] = {
    **{letter: letter for letter in "bdfhklmnpstvwz"},
    "a": "æ",
    "c": "k",
    "e": "ɛ",
    "g": "ɡ",
    "i": "ɪ",
    "j": "dʒ",
    "o": "ɑ",
    "q": "k",
    "r": "ɹ",
    "u": "ʌ",
    "x": "k s",
    "y": "i",
}
"""What each stands for most often."""


class Lexicon:
    """Phones of words; phone i is class i + 1, class 0 is the blank."""

    def __init__(self, words: Mapping[str, tuple[str, ...]]) -> None:
        names = sorted({phone for phones in words.values() for phone in phones})
        classes = {name: place for place, name in enumerate(names, 1)}
        self.words = {word: [classes[phone] for phone in said] for word, said in words.items()}
        """The phones of each word."""
        self._letters = {
            letter: [classes[phone] for phone in said.split() if phone in classes]
            for letter, said in _LETTERS.items()
        }
        self.size = len(names) + 1
        """Classes, the blank included."""

    def encode(self, text: str) -> list[int]:
        """Return the classes of a plain text; a word that is not known is left out."""
        return [phone for word in text.split() for phone in self.words.get(word, ())]

    def spell(self, text: str) -> list[int]:
        """Return the classes of what letters stand for most often, of a word nobody knows."""
        return [phone for letter in text for phone in self._letters.get(letter, ())]

    @classmethod
    def load(cls, path: Path) -> Lexicon:
        """Read what :func:`write_lexicon` wrote."""
        words = json.loads(path.read_text(encoding="utf-8"))
        return cls({word: tuple(phones.split()) for word, phones in words.items()})


def phonemise(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Ask espeak-ng how words are said.

    Raises:
        RuntimeError: it gave another number of lines than of words.
    """
    ordered = sorted(set(words))
    done = subprocess.run(
        ["espeak-ng", "-q", "--ipa", "--sep=_", "-v", "en-us"],
        input="\n".join(ordered) + "\n",
        text=True,
        capture_output=True,
        check=True,
    )
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if len(lines) != len(ordered):
        raise RuntimeError(f"espeak-ng said {len(lines)} of {len(ordered)} words")
    return {
        word: tuple(phone for phone in re.split("[_ ]", _MARKS.sub("", line)) if phone)
        for word, line in zip(ordered, lines, strict=True)
    }


def write_lexicon(path: Path, texts: Iterable[str]) -> None:
    """Write how the words of plain texts are said."""
    spoken = phonemise(word for text in texts for word in text.split())
    words = {word: " ".join(phones) for word, phones in spoken.items()}
    path.write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")


__all__ = ["Lexicon", "phonemise", "write_lexicon"]
