"""A second opinion on what was said: CTC of phones, in the middle of the encoder.

CTC of word pieces comes to know the sentences that it was trained on; phones know less of them, so
for people who were never heard the two err at different words. Of the texts that the search finds,
the draft is the one that both hear together (hierarchical CTC, Krishna et al., 2018, arXiv
1807.06234; joined scores as in hybrid CTC/attention decoding, Watanabe et al., 2017). NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream_server.recogniser.draft import Logs
from stream_server.recogniser.ngram import Scores, short_keys, word_keys

_NEVER = -1e9
_TINY = 1e-5
"""Epsilon of PyTorch's LayerNorm."""

Codes = npt.NDArray[np.uint8]
"""Phones, 1 and up; 0 is the blank."""


@dataclass(frozen=True, slots=True, eq=False)
class Sayings:
    """How things are said: the phones of each, one behind the other."""

    codes: Codes
    starts: npt.NDArray[np.int64]
    """[things + 1], where each begins; the last is where all end."""

    @staticmethod
    def of(codes: npt.NDArray[np.generic], counts: npt.NDArray[np.generic]) -> Sayings:
        """Put phones together with how many each thing has."""
        starts = np.concatenate([[0], np.cumsum(counts.astype(np.int64))])
        return Sayings(codes.astype(np.uint8), starts)

    @property
    def counts(self) -> Codes:
        """Phones of each."""
        return np.diff(self.starts).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, place: int) -> list[int]:
        said: list[int] = self.codes[self.starts[place] : self.starts[place + 1]].tolist()
        return said


@dataclass(frozen=True, slots=True, eq=False)
class PhoneModel:
    """The head that hears phones, and how words are said; stored as :attr:`arrays`."""

    layer: int
    """Of the encoder, that the head reads."""
    scale: npt.NDArray[np.float32]
    """[width], of the layer norm before it."""
    shift: npt.NDArray[np.float32]
    """[width], the same."""
    weight: npt.NDArray[np.float32]
    """[phones + 1, width]."""
    bias: npt.NDArray[np.float32]
    """[phones + 1]."""
    heads: npt.NDArray[np.uint8]
    """[vocabulary], 1 for tokens that begin a word."""
    words: npt.NDArray[np.uint32]
    """Hashes of the words whose sound is known, sorted."""
    said: Sayings
    """Of each of these words."""
    pieces: Sayings
    """Of each token of the vocabulary, for other words."""

    @property
    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What is stored; :meth:`from_arrays` reads it."""
        return {
            "layer": np.array([self.layer], np.int32),
            "scale": self.scale.astype(np.float16),
            "shift": self.shift.astype(np.float16),
            "weight": self.weight.astype(np.float16),
            "bias": self.bias.astype(np.float16),
            "heads": self.heads,
            "words": self.words,
            "said": self.said.codes,
            "said_counts": self.said.counts,
            "pieces": self.pieces.codes,
            "pieces_counts": self.pieces.counts,
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> PhoneModel:
        """Read what :attr:`arrays` gave.

        Raises:
            KeyError: an array is missing.
            ValueError: they do not belong together.
        """
        names = ("scale", "shift", "weight", "bias")
        scale, shift, weight, bias = (arrays[name].astype(np.float32) for name in names)
        said, pieces = (
            Sayings.of(arrays[name], arrays[f"{name}_counts"]) for name in ("said", "pieces")
        )
        words, heads = arrays["words"].astype(np.uint32), arrays["heads"].astype(np.uint8)
        fits = weight.shape == (*bias.shape, *scale.shape) and scale.shape == shift.shape
        fits &= len(words) == len(said) and len(heads) == len(pieces)
        for each in (said, pieces):
            fits &= each.starts[-1] == len(each.codes) and each.codes.max(initial=0) < len(bias)
        if not fits:
            raise ValueError("head and words do not belong together")
        layer = int(arrays["layer"][0])
        return PhoneModel(layer, scale, shift, weight, bias, heads, words, said, pieces)

    def logs(self, states: npt.NDArray[np.float32]) -> Logs:
        """Return what the head hears: [states, phones + 1], log-probabilities.

        Args:
            states: [states, width], of :attr:`layer`.
        """
        centred = states - states.mean(axis=1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=1, keepdims=True) + _TINY)
        scores = (centred / spread * self.scale + self.shift) @ self.weight.T + self.bias
        heard: Logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return heard

    def phones(self, text: Sequence[int]) -> list[int]:
        """Return how the tokens of a text are said; a word that is not known, token by token."""
        words: list[list[int]] = []
        for token in text:
            if self.heads[token] or not words:
                words.append([])
            words[-1].append(token)
        keys = short_keys(word_keys(words))
        places = np.searchsorted(self.words, keys).clip(max=max(0, len(self.words) - 1))
        said: list[int] = []
        for word, key, place in zip(words, keys, places.tolist(), strict=True):
            if len(self.words) and self.words[place] == key:
                said += self.said[place]
            else:
                said += [code for token in word for code in self.pieces[token]]
        return said

    def scores(self, logs: Logs, texts: Sequence[Sequence[int]]) -> Scores:
        """Return the log-probability of each text, over all of its alignments.

        Args:
            logs: what :meth:`logs` gave.
            texts: their tokens.
        """
        return ctc_scores(logs, [self.phones(text) for text in texts])

    def likeness(self, logs: Logs, text: Sequence[int]) -> float | None:
        """Return by how many nats a phone a text is likelier than that nothing was said.

        None of a text without phones.
        """
        said = self.phones(text)
        if not said:
            return None
        spoken, silent = ctc_scores(logs, [said, []]).tolist()
        return float(spoken - silent) / len(said)


def ctc_scores(logs: Logs, texts: Sequence[Sequence[int]]) -> Scores:
    """Return the log-probability of each text: CTC's forward pass, of all texts together.

    Args:
        logs: [frames, classes], log-probabilities; blank is class 0.
        texts: their classes.
    """
    lengths = np.array([len(text) for text in texts], np.int64)
    width = 2 * int(lengths.max(initial=0)) + 1
    labels = np.zeros((len(texts), width), np.int64)
    for row, text in enumerate(texts):
        labels[row, 1 : 2 * len(text) : 2] = text
    # A phone is reached from the one before without a blank, unless it is the same.
    leaps = np.full((len(texts), width), _NEVER)
    leaps[:, 1:2] = 0.0
    leaps[:, 3::2] = np.where(labels[:, 3::2] != labels[:, 1:-2:2], 0.0, _NEVER)
    paths = np.full((len(texts), width + 2), _NEVER)
    paths[:, 1] = 0.0  # before the first frame
    for frame in logs.astype(np.float64):
        near = np.logaddexp(paths[:, 2:], paths[:, 1:-1])
        arrived = np.logaddexp(near, paths[:, :-2] + leaps)
        paths[:, 1] = _NEVER
        paths[:, 2:] = arrived + frame[labels]
    rows = np.arange(len(texts))
    ends = paths[rows, 2 * lengths + 2]
    last = np.where(lengths > 0, paths[rows, 2 * lengths + 1], _NEVER)
    scores: Scores = np.logaddexp(ends, last)
    return scores


__all__ = ["Codes", "PhoneModel", "Sayings", "ctc_scores"]
