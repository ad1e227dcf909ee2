"""Plain text for synthetic speech and for language: sentences from what Debian packages hold.

Everything here is free: LJ Speech's sentences and the King James Bible are in the public domain,
so are the parts of Webster's dictionary of 1913 that GCIDE marks as such; WordNet's licence allows
any use.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

from stream_server.training.data import Clip, plain_text

_QUOTED = re.compile(r'"([^"]+)"')
_REFERENCE = re.compile(r"^\S*\d+:\d+\s+")
_ENDS = re.compile(r"[.;:?!]+(?:\s|$)|--")
_ASIDE = re.compile(r"\([^)]*\)|\[[^\]]*\]")
_NUMBERING = re.compile(r"^\s*(?:\d+\.|\([a-z]\))\s*")
_OF_1913 = "[1913 Webster]"


def sealed_texts(tests: Mapping[str, list[Clip]]) -> set[str]:
    """Return the sentences that are tested on."""
    return {clip.text for clips in tests.values() for clip in clips}


def read_sentences(path: Path, tests: Mapping[str, list[Clip]]) -> list[str]:
    """Read ``id|sentence`` lines as plain text, without those that are tested on."""
    sealed = sealed_texts(tests)
    names = {clip.audio.stem for clips in tests.values() for clip in clips}
    sentences = []
    for line in path.read_text(encoding="utf-8").splitlines():
        identifier, _, sentence = line.partition("|")
        plain = plain_text(sentence)
        if plain and identifier not in names and plain not in sealed:
            sentences.append(plain)
    return sentences


def read_wordnet(folder: Path) -> Iterator[str]:
    """Read the glosses and examples of WordNet (its ``data.*`` files)."""
    for path in sorted(folder.glob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            gloss = line.partition(" | ")[2]
            yield from _QUOTED.findall(gloss)
            yield from _QUOTED.sub(" ", gloss).split(";")


def read_prose(path: Path) -> Iterator[str]:
    """Read clauses of running text; a reference at a line's start, as ``Ge1:1``, is left out."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        yield from _ENDS.split(_REFERENCE.sub("", line))


def read_webster(path: Path) -> Iterator[str]:
    """Read what GCIDE (``gcide.dict.dz``) has of the edition of 1913: meanings and quotations."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        entry: list[str] = []
        for line in file:
            if _OF_1913 in line:
                yield from _clauses(entry)
                entry = []
            elif not line.strip():
                entry = []
            elif "\\" not in line:  # a line with the word's syllables and its descent
                entry.append(line)


def _clauses(entry: list[str]) -> Iterator[str]:
    """Split an entry at its sentences; what stands behind ``--`` is a quotation's author."""
    text = _NUMBERING.sub("", " ".join(line.strip() for line in entry))
    for part in _ENDS.split(_ASIDE.sub(" ", text)):
        if not re.search(r"[^A-Za-z',\-\s\"{}`]", part):
            yield part


def plain_sentences(
    raw: Iterable[str], sealed: Set[str], least: int = 3, most: int = 30
) -> list[str]:
    """Return what can be said, in plain form, each once, in the order in which it first came.

    Args:
        raw: sentences as they were written.
        sealed: plain sentences that are tested on.
        least: words of a sentence, at least.
        most: at most.
    """
    found: dict[str, None] = {}
    for line in raw:
        plain = plain_text(line)
        if plain and least <= len(plain.split()) <= most and plain not in sealed:
            found[plain] = None
    return list(found)


__all__ = [
    "plain_sentences",
    "read_prose",
    "read_sentences",
    "read_webster",
    "read_wordnet",
    "sealed_texts",
]
