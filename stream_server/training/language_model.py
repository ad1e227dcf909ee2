"""Learn a language model of tokens from text alone.

Witten-Bell smoothing (Witten and Bell, 1991; interpolated) for each source of text; the sources are
then mixed with fixed weights, and the sequences that change the model least are left out (Seymore
and Rosenfeld, 1996). All sequences of a length are arrays, so that millions take seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream_server.errors import ConfigError
from stream_server.recogniser.ngram import Keys, NgramModel, Scores, Tokens, longer_keys
from stream_server.recogniser.tokenizer import BEGIN, END, Tokenizer

_Indices = npt.NDArray[np.int32]
_Values = npt.NDArray[np.float32]
_Mask = npt.NDArray[np.bool_]

_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class LanguageConfig:
    """What a language model is learnt from, and how large it gets."""

    order: int = 8
    """Tokens of the longest sequences."""
    entries: int = 1_000_000
    """Sequences that are kept, about; four bytes each."""
    once: int = 5
    """Longer sequences than this many tokens must come at least twice."""
    known: int = 2
    """Times that a word must come to be known."""
    texts: dict[str, float] = field(default_factory=dict)
    """Weight of each source, a file ``NAME.txt`` of plain sentences; none: all alike."""


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """Every token sequence of one length that the texts have."""

    keys: Keys
    counts: _Values
    """[sources, sequences]."""
    tokens: Tokens
    """The last token of each."""
    shorter: _Indices
    """Place, one level down, of each without its first token."""
    context: _Indices
    """Place, one level down, of each without its last token."""


def read_texts(folder: Path, wanted: Collection[str] = ()) -> dict[str, list[str]]:
    """Read sources of text, files ``NAME.txt`` with a sentence a line.

    Args:
        folder: where they are.
        wanted: their names; none: every source that is there.

    Raises:
        ConfigError: one is missing, or there is none.
    """
    names = list(wanted) or sorted(path.stem for path in folder.glob("*.txt"))
    if not names:
        raise ConfigError("texts", str(folder), "a folder of .txt files")
    texts = {}
    for name in names:
        path = folder / f"{name}.txt"
        if not path.is_file():
            raise ConfigError(f"language.texts.{name}", str(path), "a file that is there")
        texts[name] = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    return texts


def learn(
    texts: Mapping[str, Sequence[str]], tokenizer: Tokenizer, size: int, config: LanguageConfig
) -> NgramModel:
    """Learn a model.

    Args:
        texts: sentences of each source.
        tokenizer: their encoding.
        size: tokens of the network's vocabulary.
        config: the weights of the sources, and how large the model gets.
    """
    streams = [_encode(lines, tokenizer) for lines in texts.values()]
    tokens = np.concatenate(streams)
    source = np.repeat(np.arange(len(streams)), [len(stream) for stream in streams])
    weights = np.array([config.texts.get(name, 1.0) for name in texts])
    weights /= weights.sum()
    levels = _levels(tokens, source, len(streams), config.order)
    shares = _mixture(levels, weights)
    kept = _kept(levels, shares, weights, config)
    entries = _entries(levels, shares, kept)
    heads = np.zeros(size, np.uint8)
    pieces = range(min(size, tokenizer.size))
    heads[[END, *(piece for piece in pieces if tokenizer.piece(piece).startswith(" "))]] = 1
    return NgramModel.build(config.order, BEGIN, entries, heads, _words(tokens, heads, config))


def _encode(lines: Sequence[str], tokenizer: Tokenizer) -> Tokens:
    tokens: list[int] = []
    for line in lines:
        tokens += [BEGIN, *tokenizer.encode(line), END]
    return np.array(tokens, np.int64)


def _levels(
    tokens: Tokens, source: npt.NDArray[np.int64], sources: int, order: int
) -> list[_Level]:
    """Count every sequence of up to ``order`` tokens; none goes over the beginning of a text."""
    count = len(tokens)
    begins = np.flatnonzero(tokens == BEGIN)
    depth = np.arange(count) - np.repeat(begins, np.diff(np.append(begins, count)))
    levels: list[_Level] = []
    keys = np.zeros(count, np.uint64)
    before = np.zeros(count, np.int32)
    for length in range(order):
        keys = longer_keys(np.concatenate([np.zeros(1, np.uint64), keys[:-1]])[:, None], tokens)[
            :, 0
        ]
        places = np.flatnonzero(depth >= length)
        unique, first, inverse = np.unique(keys[places], return_index=True, return_inverse=True)
        counts = [
            np.bincount(inverse[source[places] == each], minlength=len(unique))
            for each in range(sources)
        ]
        at = places[first]
        shorter = before[at] if length else np.zeros(len(at), np.int32)
        context = before[at - 1] if length else np.zeros(len(at), np.int32)
        levels.append(
            _Level(unique, np.stack(counts).astype(np.float32), tokens[at], shorter, context)
        )
        before = np.zeros(count, np.int32)
        before[places] = inverse
    return levels


def _mixture(levels: Sequence[_Level], weights: Scores) -> list[_Values]:
    """Return the probability of the last token of each sequence behind the others."""
    shares = [np.zeros(len(level.keys), np.float32) for level in levels]
    for source, weight in enumerate(weights):
        share = np.zeros(1, np.float32)
        for length, level in enumerate(levels):
            counts = level.counts[source] * (level.tokens != BEGIN)
            if length == 0:
                # Add a half: a source need not have every token of the others.
                share = (counts + 0.5) * (level.tokens != BEGIN)
                share = share / share.sum()
            else:
                contexts = len(share)
                seen = np.bincount(level.context, weights=counts, minlength=contexts)
                kinds = np.bincount(level.context, weights=counts > 0, minlength=contexts)
                rest = np.where(seen > 0, kinds / np.maximum(seen + kinds, 1), 1.0)
                own = counts / np.maximum(seen + kinds, 1)[level.context]
                share = own + rest[level.context] * share[level.shorter]
            shares[length] += (weight * share).astype(np.float32)
    return shares


def _backoff(level: _Level, share: _Values, shorter: _Values, kept: _Mask) -> Scores:
    """Return the factor of the shorter contexts' probabilities, of each context of a level."""
    contexts = len(shorter)
    place = level.context[kept]
    mine = np.bincount(place, weights=share[kept], minlength=contexts)
    theirs = np.bincount(place, weights=shorter[level.shorter[kept]], minlength=contexts)
    factor: Scores = np.clip(1 - mine, 1e-4, 1) / np.clip(1 - theirs, 1e-4, 1)
    return factor


def _kept(
    levels: Sequence[_Level], shares: Sequence[_Values], weights: Scores, config: LanguageConfig
) -> list[_Mask]:
    """Choose the sequences that matter most, and the contexts that they need."""
    totals = levels[0].counts.sum(axis=1)
    scale = (weights / np.maximum(totals, 1)).astype(np.float32)
    gains: list[npt.NDArray[np.floating]] = [np.full(len(levels[0].keys), np.inf)]
    for length in range(1, len(levels)):
        level, shorter = levels[length], shares[length - 1]
        factor = _backoff(level, shares[length], shorter, np.ones(len(level.keys), np.bool_))
        instead = np.maximum(shorter[level.shorter] * factor[level.context], _TINY)
        gain = (scale @ level.counts) * np.abs(np.log(shares[length] / instead))
        if length >= config.once:
            gain[level.counts.sum(axis=0) < 2] = -1
        gains.append(gain)
    every = np.concatenate(gains)
    least = 0.0
    if len(every) > config.entries:
        least = max(least, float(np.partition(every, -config.entries)[-config.entries]))
    kept = [gain >= least for gain in gains]
    for length in range(len(levels) - 1, 0, -1):
        kept[length - 1][levels[length].context[kept[length]]] = True
    return kept


def _entries(
    levels: Sequence[_Level], shares: Sequence[_Values], kept: Sequence[_Mask]
) -> tuple[Keys, Scores, Scores]:
    """Return keys, log-probabilities and back-off weights of what is kept."""
    backoffs = [
        np.log(_backoff(levels[n + 1], shares[n + 1], shares[n], kept[n + 1]))
        for n in range(len(levels) - 1)
    ]
    backoffs.append(np.zeros(len(levels[-1].keys)))
    return (
        np.concatenate([level.keys[k] for level, k in zip(levels, kept, strict=True)]),
        np.concatenate(
            [np.log(np.maximum(s[k], _TINY)) for s, k in zip(shares, kept, strict=True)]
        ).astype(np.float64),
        np.concatenate([b[k] for b, k in zip(backoffs, kept, strict=True)]),
    )


def _words(tokens: Tokens, heads: npt.NDArray[np.uint8], config: LanguageConfig) -> Keys:
    """Return the keys of the words that come often enough, as ``NgramModel`` makes them."""
    at = np.flatnonzero((heads[tokens] > 0) & (tokens != END))
    keys = longer_keys(np.zeros((len(at), 1), np.uint64), tokens[at])[:, 0]
    going = np.ones(len(at), np.bool_)
    # Every text ends in END, which is a head: no word goes on behind the last one.
    while going.any():
        at = np.minimum(at + 1, len(tokens) - 1)
        going &= (heads[tokens[at]] == 0) & (tokens[at] != BEGIN)
        keys = np.where(going, longer_keys(keys[:, None], tokens[at])[:, 0], keys)
    unique, counts = np.unique(keys, return_counts=True)
    known: Keys = unique[counts >= config.known]
    return known


__all__ = ["LanguageConfig", "learn", "read_texts"]
