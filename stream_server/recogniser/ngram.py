"""A language model of tokens, learnt from text alone: an n-gram model with back-off.

All orders lie in one table of hashes: entries are sorted by the upper bits of the hash into buckets
of a few, and only 16 further bits of it are kept. So an entry takes four bytes, and many are looked
up in one go of array operations. One look-up in some thousands finds an entry that is not its own
(fingerprints, as in Guthrie and Hepple, EMNLP 2010). NumPy only.

It also knows which words there are, by their tokens: a word that it does not know can be a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Scores = npt.NDArray[np.float64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
"""Multiplier of the rolling hash: the golden ratio's bits."""
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""Of splitmix64 (Steele et al., 2014)."""
_KEPT = 16
"""Bits of a hash that are stored, beyond those that name its bucket."""
_PER_BUCKET = 4
"""Entries that a bucket has at least, on average."""
_FINE, _FINER = 16.0, 32.0
"""Steps a nat in which log-probabilities and back-off weights are stored."""
_SHIFT = 60
"""Added to a stored back-off weight: it may be positive, up to 1.9 nats."""
_UNSEEN = -12.0
"""Log-probability of a token that no text has."""


def mixed(keys: Keys) -> Keys:
    """Return keys with every bit depending on every other, as buckets need them."""
    keys = (keys ^ (keys >> np.uint64(31))) * _MIX[0]
    keys = (keys ^ (keys >> np.uint64(29))) * _MIX[1]
    return keys ^ (keys >> np.uint64(32))


def longer_keys(keys: Keys, tokens: Tokens) -> Keys:
    """Return the keys of token sequences that go on with one more token.

    Args:
        keys: [..., sequences that end in the same place]; 0 is that of an empty one.
        tokens: the next token of each place, one axis less.
    """
    grown: Keys = keys * _STEP + (tokens + 1).astype(np.uint64)[..., None]
    return grown


def word_keys(words: Sequence[Sequence[int]]) -> Keys:
    """Return the keys of words, by their tokens."""
    keys = np.zeros((len(words), 1), np.uint64)
    for place, word in enumerate(words):
        for token in word:
            keys[place] = longer_keys(keys[place : place + 1], np.array([token]))[0]
    return keys[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class Contexts:
    """Where some texts have come to."""

    keys: Keys
    """[texts, order]: the keys of the last 0, 1, ... tokens of each."""
    depth: npt.NDArray[np.int64]
    """[texts], tokens that there are to look back on, the beginning included."""
    word: Keys
    """[texts], key of the word that is being written; 0 before the first."""

    def take(self, places: npt.NDArray[np.intp]) -> Contexts:
        """Return some of them, in this order."""
        return Contexts(self.keys[places], self.depth[places], self.word[places])

    def join(self, other: Contexts) -> Contexts:
        """Return these and those."""
        return Contexts(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.depth, other.depth]),
            np.concatenate([self.word, other.word]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What the model says of one more token of each text."""

    scores: Scores
    """[texts], log-probabilities."""
    unknown: npt.NDArray[np.bool_]
    """[texts], whether the token ends a word that is not known."""
    contexts: Contexts


@dataclass(frozen=True, slots=True, eq=False)
class NgramModel:
    """An n-gram model; built by :meth:`build`, stored as :attr:`arrays`."""

    order: int
    """Tokens of the longest sequences."""
    begin: int
    """The token that stands before a text."""
    starts: npt.NDArray[np.int64]
    """[buckets + 1], first entry of each bucket."""
    kept: npt.NDArray[np.uint16]
    """[entries + widest bucket], the next bits of each hash."""
    scores: npt.NDArray[np.uint8]
    """[entries], log-probability of the last token."""
    backoffs: npt.NDArray[np.uint8]
    """[entries], what is added where the sequence is a context that a token was not seen in."""
    heads: npt.NDArray[np.uint8]
    """[vocabulary], 1 for tokens that begin a word, or end the last."""
    words: npt.NDArray[np.uint32]
    """Hashes of the known words, sorted."""

    @staticmethod
    def build(
        order: int,
        begin: int,
        entries: tuple[Keys, Scores, Scores],
        heads: npt.NDArray[np.uint8],
        words: Keys,
    ) -> NgramModel:
        """Put a model together.

        Args:
            order: see the attribute; ``begin`` and ``heads`` too.
            begin: the same.
            entries: key, log-probability and back-off weight (log) of each sequence.
            heads: the same.
            words: keys of the known words.
        """
        keys, scores, backoffs = entries
        bits = max(1, (len(keys) // _PER_BUCKET).bit_length() - 1)
        bucket, kept = _split(keys, bits)
        sequence = np.lexsort((kept, bucket))
        counts = np.bincount(bucket, minlength=1 << bits)
        tail = np.zeros(int(counts.max()), np.uint16)
        return NgramModel(
            order=order,
            begin=begin,
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            kept=np.concatenate([kept[sequence], tail]),
            scores=np.round(-scores[sequence] * _FINE).clip(0, 255).astype(np.uint8),
            backoffs=(_SHIFT - np.round(backoffs[sequence] * _FINER)).clip(0, 255).astype(np.uint8),
            heads=heads,
            words=np.unique(short_keys(words)),
        )

    @property
    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What is stored; :meth:`from_arrays` reads it."""
        return {
            "shape": np.array([self.order, self.begin], np.int32),
            "buckets": np.diff(self.starts).astype(np.uint8),
            "kept": self.kept[: len(self.scores)],
            "scores": self.scores,
            "backoffs": self.backoffs,
            "heads": self.heads,
            "words": self.words,
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> NgramModel:
        """Read what :attr:`arrays` gave.

        Raises:
            KeyError: an array is missing.
            ValueError: they do not belong together.
        """
        order, begin = (int(each) for each in arrays["shape"])
        counts = arrays["buckets"].astype(np.int64)
        kept = arrays["kept"].astype(np.uint16)
        scores, backoffs = (arrays[name].astype(np.uint8) for name in ("scores", "backoffs"))
        if not counts.sum() == len(kept) == len(scores) == len(backoffs):
            raise ValueError("buckets and entries do not belong together")
        return NgramModel(
            order=order,
            begin=begin,
            starts=np.concatenate([[0], np.cumsum(counts)]),
            kept=np.concatenate([kept, np.zeros(int(counts.max()), np.uint16)]),
            scores=scores,
            backoffs=backoffs,
            heads=arrays["heads"].astype(np.uint8),
            words=arrays["words"].astype(np.uint32),
        )

    def start(self) -> Contexts:
        """Return the context of one text that has not begun."""
        keys = np.zeros((1, self.order), np.uint64)
        keys[0, 1:] = longer_keys(keys[:, :1], np.array([self.begin]))[0]
        return Contexts(keys, np.ones(1, np.int64), np.zeros(1, np.uint64))

    def read(self, contexts: Contexts, tokens: Tokens) -> Read:
        """Read one more token of each text.

        Args:
            contexts: of the texts.
            tokens: [texts].
        """
        count = len(tokens)
        keys = longer_keys(contexts.keys, tokens)
        lengths = np.arange(1, self.order + 1)
        found = self._find(np.concatenate([keys, contexts.keys[:, 1:]], axis=1))
        whole = np.where(lengths <= contexts.depth[:, None] + 1, found[:, : self.order], -1)
        longest = np.where(whole >= 0, lengths, 0).max(axis=1)
        entry = whole[np.arange(count), np.maximum(longest, 1) - 1]
        scores = np.where(longest > 0, -(self.scores[entry] / _FINE), _UNSEEN)
        # Contexts of more tokens than the longest sequence has beside its last give their weight.
        behind, size = found[:, self.order :], lengths[:-1]
        due = (behind >= 0) & (size <= contexts.depth[:, None]) & (size >= longest[:, None])
        weights = (_SHIFT - self.backoffs[behind].astype(np.float64)) / _FINER
        is_head = self.heads[tokens] > 0
        word = np.where(is_head, np.uint64(0), contexts.word)
        grown = Contexts(
            np.concatenate([np.zeros((count, 1), np.uint64), keys[:, :-1]], axis=1),
            np.minimum(contexts.depth + 1, self.order - 1),
            longer_keys(word[:, None], tokens)[:, 0],
        )
        unknown = is_head & (contexts.word != 0) & ~self.knows(contexts.word)
        return Read(scores + np.where(due, weights, 0.0).sum(axis=1), unknown, grown)

    def _find(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return the entry of each key; -1 where there is none."""
        bits = int(len(self.starts) - 1).bit_length() - 1
        bucket, kept = _split(keys, bits)
        first, end = self.starts[bucket], self.starts[bucket + 1]
        widest = len(self.kept) - len(self.scores)
        places = first[..., None] + np.arange(widest)
        hits = (self.kept[places] == kept[..., None]) & (places < end[..., None])
        return np.where(hits.any(axis=-1), first + hits.argmax(axis=-1), -1)

    def knows(self, words: Keys) -> npt.NDArray[np.bool_]:
        """Say of each key of a word (:func:`word_keys`) whether the word is known."""
        short = short_keys(words)
        if not len(self.words):
            return np.zeros(len(short), np.bool_)
        place = np.minimum(np.searchsorted(self.words, short), len(self.words) - 1)
        known: npt.NDArray[np.bool_] = self.words[place] == short
        return known


def _split(keys: Keys, bits: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
    """Return the bucket of each key and the bits that tell it from others there."""
    hashes = mixed(keys)
    bucket = (hashes >> np.uint64(64 - bits)).astype(np.int64)
    kept = (hashes >> np.uint64(64 - bits - _KEPT)) & np.uint64((1 << _KEPT) - 1)
    return bucket, kept.astype(np.uint16)


def short_keys(words: Keys) -> npt.NDArray[np.uint32]:
    """Return what is stored of the keys of words."""
    return (mixed(words) >> np.uint64(32)).astype(np.uint32)


__all__ = [
    "Contexts",
    "Keys",
    "NgramModel",
    "Read",
    "Scores",
    "Tokens",
    "longer_keys",
    "mixed",
    "short_keys",
    "word_keys",
]
