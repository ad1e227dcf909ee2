"""A word trigram model as PocketSphinx has one, and text drawn from it.

PocketSphinx's model of American English (72,547 words, 3.7 million sequences) was learnt from far
more text than there is here, of the kind that people say and write. Text that is drawn from it
carries what it knows over to a model of other units. The file is a trie whose sequences run
backwards, bit by bit (``lm_trie.c`` and ``lm_trie_quant.c`` of PocketSphinx 5, after KenLM).
NumPy only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream_server.errors import ConfigError, ModelError

_HEADER = b"Trie Language Model"
_BASE = float(np.log(1.0001))
"""Nats of a unit of its logarithms."""
_CODES = 1 << 16
"""Values that a probability or a back-off weight can have."""
_CODE_BITS = 16
_SPARE = 8
"""Bytes behind each array of bits."""
_BEGIN, _END = "<s>", "</s>"
_TRIES = 20
"""Times that a word is drawn anew which longer sequences account for."""

_Words = npt.NDArray[np.int64]
_Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Trigrams:
    """The model. Sequences are sorted by their words, so that what follows lies together."""

    words: list[str]
    unigrams: _Shares
    """[words], probability of each."""
    pairs: _Words
    """[pairs], sorted: the first word times the count of words, plus the second."""
    pair_shares: _Shares
    """[pairs], probability of the second word."""
    triples: _Words
    """[triples], sorted: the place of the first two among the pairs times the count of words, plus
    the third."""
    triple_shares: _Shares
    """[triples], probability of the third."""


def packaged() -> Path:
    """Return where the package ``pocketsphinx`` has its model of English.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import pocketsphinx
    except ModuleNotFoundError as error:
        needs = "pip install 'diffscribe[reference]'"
        raise ModelError(f"pocketsphinx is not installed: {needs}") from error
    return Path(pocketsphinx.get_model_path("en-us/en-us.lm.bin"))


def read_trigrams(path: Path) -> Trigrams:
    """Read a model such as PocketSphinx's ``en-us.lm.bin``.

    Raises:
        ConfigError: it is something else.
    """
    data = path.read_bytes() if path.is_file() else b""
    if not data.startswith(_HEADER + b"\3"):
        raise ConfigError("trigrams", str(path), "a binary trigram model of PocketSphinx")
    at = len(_HEADER) + 1
    counts = struct.unpack_from("<3I", data, at)
    at += 16  # the counts, and a number that stands for nothing
    bins = np.frombuffer(data, "<f4", 3 * _CODES, at).reshape(3, _CODES).astype(np.float64)
    at += bins.size * 4
    singles = np.frombuffer(data, "<f4,<f4,<u4", counts[0] + 1, at)
    at += singles.nbytes
    word, follow = (int(each).bit_length() for each in (counts[0], counts[2]))
    middle = _Packed(data, at, counts[1], (word, _CODE_BITS, _CODE_BITS, follow))
    longest = _Packed(data, at + middle.size, counts[2], (word, _CODE_BITS))
    at += middle.size + longest.size + 4
    # A pair hangs from its second word, a triple from its last two.
    size, first = counts[0], middle.field(0)
    second = _owners(singles["f2"].astype(np.int64), counts[1])
    pairs = first * size + second
    order = np.argsort(pairs)
    above = _owners(middle.field(3), counts[2])
    front = longest.field(0) * size + first[above]
    triples = np.searchsorted(pairs, front, sorter=order) * size + second[above]
    sequence = np.argsort(triples)
    return Trigrams(
        words=data[at:].decode().split("\0")[:size],
        unigrams=np.exp(singles["f0"][:size].astype(np.float64) * _BASE),
        pairs=pairs[order],
        pair_shares=np.exp(bins[0][middle.field(2)[order]] * _BASE),
        triples=triples[sequence],
        triple_shares=np.exp(bins[2][longest.field(1)[sequence]] * _BASE),
    )


class _Packed:
    """An array of entries of some fields, bit after bit."""

    def __init__(self, data: bytes, at: int, count: int, fields: Sequence[int]) -> None:
        self._fields = fields
        self._count = count
        self.size = ((1 + count) * sum(fields) + 7) // 8 + _SPARE
        """Bytes."""
        self._bytes = np.frombuffer(data, np.uint8, self.size, at).astype(np.uint64)

    def field(self, place: int) -> _Words:
        """Return one field of all entries."""
        bit = np.arange(self._count) * sum(self._fields) + sum(self._fields[:place])
        value = np.zeros(self._count, np.uint64)
        for byte in range(4):
            value |= self._bytes[(bit >> 3) + byte] << np.uint64(8 * byte)
        value = (value >> (bit & 7).astype(np.uint64)) & np.uint64((1 << self._fields[place]) - 1)
        return value.astype(np.int64)


def _owners(starts: _Words, count: int) -> _Words:
    """Return which range each place lies in, of ranges that begin at ``starts``."""
    return np.searchsorted(starts, np.arange(count), side="right") - 1


class Drawer:
    """Draws sentences, many at once: each next word as the model has it, backing off and all."""

    def __init__(self, model: Trigrams, seed: int) -> None:
        self._model = model
        self._random = np.random.default_rng(seed)
        size, pairs = len(model.words), len(model.pairs)
        self._begin = model.words.index(_BEGIN)
        self._end = model.words.index(_END)
        singles = model.unigrams.copy()
        singles[self._begin] = 0.0
        self._singles = _Level(np.arange(size), singles, 1, size)
        self._pairs = _Level(model.pairs, model.pair_shares, size, size)
        self._triples = _Level(model.triples, model.triple_shares, pairs, size)

    def sentences(self, rows: int = 20_000, most: int = 30) -> Iterator[str]:
        """Draw sentences; those that are too long are left out.

        Args:
            rows: how many are begun.
            most: words of a sentence, at most.
        """
        size = len(self._model.words)
        said = np.full((most + 1, rows), self._end)
        going = np.arange(rows)
        pair = np.full(rows, -1)
        before = np.full(rows, self._begin)
        for place in range(most + 1):
            word = self._next(pair, before)
            said[place, going] = word
            on = word != self._end
            going, before, key = going[on], word[on], (before * size + word)[on]
            pair = _place(self._model.pairs, key)
        whole = said[most] == self._end
        names = np.array(self._model.words, object)
        for row in said[:, whole].T:
            yield " ".join(names[row[row != self._end]])

    def _next(self, pair: _Words, before: _Words) -> _Words:
        """Draw a word behind each pair of words; -1 where there is no such pair."""
        size = len(self._model.words)
        word = self._triples.draw(pair, self._random)
        left = np.flatnonzero(word < 0)
        for _ in range(_TRIES):
            drawn = self._behind(before[left])
            word[left] = drawn
            # The shares of what is known of longer sequences are in their own level.
            again = (pair[left] >= 0) & (
                _place(self._model.triples, pair[left] * size + drawn) >= 0
            )
            left = left[again]
            if not len(left):
                break
        return word

    def _behind(self, before: _Words) -> _Words:
        """Draw a word behind each word."""
        size = len(self._model.words)
        word = self._pairs.draw(before, self._random)
        left = np.flatnonzero(word < 0)
        for _ in range(_TRIES):
            drawn = self._singles.draw(np.zeros(len(left), np.int64), self._random)
            # What is over after rounding is no word: another is drawn.
            word[left] = np.where(drawn < 0, self._end, drawn)
            again = _place(self._model.pairs, before[left] * size + word[left]) >= 0
            left = left[again]
            if not len(left):
                break
        return word


class _Level:
    """Sequences of one length, by their contexts, from which a last word is drawn."""

    def __init__(self, keys: _Words, shares: _Shares, contexts: int, words: int) -> None:
        self._words = keys % words
        self._sums = np.concatenate([[0.0], np.cumsum(shares)])
        self._starts = np.searchsorted(keys // words, np.arange(contexts + 1))

    def draw(self, contexts: _Words, random: np.random.Generator) -> _Words:
        """Return a word behind each context; -1 where it falls to shorter contexts."""
        known = np.maximum(contexts, 0)
        first, end = self._sums[self._starts[known]], self._sums[self._starts[known + 1]]
        target = first + random.random(len(contexts))
        place = np.searchsorted(self._sums, target, side="right") - 1
        word = self._words[np.minimum(place, len(self._words) - 1)]
        return np.where((contexts >= 0) & (target < end), word, -1)


def _place(keys: _Words, wanted: _Words) -> _Words:
    """Return where keys are among sorted ones; -1 for those that are not."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


__all__ = ["Drawer", "Trigrams", "packaged", "read_trigrams"]
