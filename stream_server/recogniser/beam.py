"""The texts that CTC may have heard: prefix beam search with a language model inside.

Prefix beam search is that of Hannun et al., 2014 (arXiv 1408.2873): a text's probability is summed
over its alignments, and what the language model thinks of it counts as it grows, so that a text
which reads well is still there when it is needed (shallow fusion). All prefixes of a frame are
worked on together, as arrays. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stream_server.recogniser.draft import Candidate, DraftConfig, Logs, agreed
from stream_server.recogniser.ngram import (
    Contexts,
    Keys,
    NgramModel,
    Scores,
    Tokens,
    longer_keys,
)
from stream_server.recogniser.phones import PhoneModel

_NEVER = -1e9
_SURE = -0.01
"""Log-probability of the blank over which a frame is taken for silence."""
_LIKELY = 12
"""Classes of a frame that may extend a text."""
_FAR = -8.0
"""Log-probability under which a token does not extend a text."""
_WIDTH = 12.0
"""Nats behind the best text at which another is given up."""
_END = 1
"""The token that ends a text."""

_Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class _Beam:
    """The texts that are kept, each an element of all arrays."""

    texts: npt.NDArray[np.object_]
    """Their tokens."""
    keys: Keys
    """Hashes of them."""
    last: Tokens
    """Their last token; -1 of the empty one."""
    blank: Scores
    """Log-probability of the alignments that end in a blank."""
    said: Scores
    """The same, of those that end in the last token."""
    bonus: Scores
    """What the language model gives."""
    contexts: Contexts
    """Where the language model is."""

    @property
    def heard(self) -> Scores:
        """Log-probability over all alignments."""
        heard: Scores = np.logaddexp(self.blank, self.said)
        return heard

    @property
    def scores(self) -> Scores:
        """What is heard, and the bonus."""
        return self.heard + self.bonus

    def take(self, places: _Places) -> _Beam:
        """Return some of them."""
        return _Beam(
            self.texts[places],
            self.keys[places],
            self.last[places],
            self.blank[places],
            self.said[places],
            self.bonus[places],
            self.contexts.take(places),
        )

    def join(self, other: _Beam) -> _Beam:
        """Return these and those."""
        return _Beam(
            np.concatenate([self.texts, other.texts]),
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.last, other.last]),
            np.concatenate([self.blank, other.blank]),
            np.concatenate([self.said, other.said]),
            np.concatenate([self.bonus, other.bonus]),
            self.contexts.join(other.contexts),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Growth:
    """Texts of the beam with one more token, each an element of all arrays."""

    parents: _Places
    """_Places in the beam."""
    tokens: Tokens
    keys: Keys
    said: Scores
    """Log-probability."""

    def take(self, places: _Places | npt.NDArray[np.bool_]) -> _Growth:
        """Return some of them."""
        return _Growth(
            self.parents[places], self.tokens[places], self.keys[places], self.said[places]
        )


class BeamSearch:
    """Finds texts as a configuration says, with a language model or without."""

    def __init__(
        self,
        config: DraftConfig,
        language: NgramModel | None = None,
        phones: PhoneModel | None = None,
    ) -> None:
        self._config = config
        self._language = language
        self._phones = phones

    def candidates(self, logs: Logs, phones: Logs | None = None) -> list[Candidate]:
        """Return the most probable texts, the best first.

        Args:
            logs: [frames, vocabulary], log-probabilities; blank is token 0.
            phones: [states, phones], the same of phones, if they are heard.
        """
        found = self._found(logs)
        if phones is None or self._phones is None or not self._config.phones:
            return found
        said = self._phones.scores(phones, [each.tokens for each in found])
        return agreed(found, said, self._config.phones)

    def _found(self, logs: Logs) -> list[Candidate]:
        """Return the most probable texts without what phones say."""
        if self._config.temperature != 1.0:
            logs = logs / np.float32(self._config.temperature)
            logs = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
        beam = self._start()
        for frame in logs.astype(np.float64):
            beam = self._after(beam, frame)
        ends, _ = self._earned(beam.contexts, np.full(len(beam.last), _END), 0.0)
        scores, heard = beam.scores + ends, beam.heard
        is_text = beam.last >= 0
        if not is_text.all():
            # How likely it is that nothing was said no text can tell: what is heard decides, so
            # that no text stands as the best one would without the language model.
            likeliest = int(np.argmax(np.where(is_text, scores, -np.inf)))
            earned = (beam.bonus + ends)[likeliest] if is_text.any() else 0.0
            scores[~is_text] = heard[~is_text] + earned
        best = np.argsort(-scores, kind="stable")[: self._config.candidates]
        return [
            Candidate(beam.texts[place], float(scores[place]), float(heard[place]))
            for place in best
        ]

    def _start(self) -> _Beam:
        none = Contexts(np.zeros((1, 0), np.uint64), np.zeros(1, np.int64), np.zeros(1, np.uint64))
        return _Beam(
            texts=_column([()]),
            keys=np.zeros(1, np.uint64),
            last=np.full(1, -1),
            blank=np.zeros(1),
            said=np.full(1, _NEVER),
            bonus=np.zeros(1),
            contexts=none if self._language is None else self._language.start(),
        )

    def _after(self, beam: _Beam, frame: Scores) -> _Beam:
        """Return the beam after one more frame."""
        total = beam.heard
        stayed = np.where(beam.last >= 0, beam.said + frame[beam.last], _NEVER)
        growth = self._growth(beam, total, frame)
        # What a text grows to may be in the beam already: the two are one.
        order = np.argsort(beam.keys)
        place = order[np.searchsorted(beam.keys[order], growth.keys).clip(max=len(order) - 1)]
        is_known = beam.keys[place] == growth.keys
        known = place[is_known]
        stayed[known] = np.logaddexp(stayed[known], growth.said[is_known])
        kept = replace(beam, blank=total + frame[0], said=stayed)
        scores = kept.scores
        least = scores.max() - _WIDTH
        if len(scores) >= self._config.beam:
            least = max(least, float(np.partition(scores, -self._config.beam)[-self._config.beam]))
        earns = growth.said + beam.bonus[growth.parents] + max(self._config.token, 0.0)
        new = self._grown(beam, growth.take(~is_known & (earns > least)))
        kept = kept.join(new)
        scores = kept.scores
        best = np.argsort(-scores, kind="stable")[: self._config.beam]
        best = best[scores[best] > scores[best[0]] - _WIDTH]
        return _with_texts(kept.take(best), best - len(beam.last))

    def _growth(self, beam: _Beam, total: Scores, frame: Scores) -> _Growth:
        """Return every text that the beam may grow to in a frame."""
        tokens = _likely(frame)
        again = beam.last[:, None] == tokens
        said = np.where(again, beam.blank[:, None], total[:, None]) + frame[tokens]
        parents = np.repeat(np.arange(len(total)), len(tokens))
        new = np.tile(tokens, len(total))
        keys = longer_keys(beam.keys[parents, None], new)[:, 0]
        return _Growth(parents, new, keys, said.ravel())

    def _grown(self, beam: _Beam, growth: _Growth) -> _Beam:
        """Return new texts as a beam; each is that of its parent still."""
        contexts = beam.contexts.take(growth.parents)
        earned, contexts = self._earned(contexts, growth.tokens, self._config.token)
        return _Beam(
            beam.texts[growth.parents],
            growth.keys,
            growth.tokens,
            np.full(len(earned), _NEVER),
            growth.said,
            beam.bonus[growth.parents] + earned,
            contexts,
        )

    def _earned(self, contexts: Contexts, tokens: Tokens, each: float) -> tuple[Scores, Contexts]:
        """Return what the language model gives for one more token of each text."""
        if self._language is None or not len(tokens):
            return np.zeros(len(tokens)), contexts
        read = self._language.read(contexts, tokens)
        config = self._config
        return config.language * read.scores + each - config.unknown * read.unknown, read.contexts


def _column(texts: list[tuple[int, ...]]) -> npt.NDArray[np.object_]:
    column = np.empty(len(texts), np.object_)
    column[:] = texts
    return column


def _with_texts(beam: _Beam, new: _Places) -> _Beam:
    """Write the last token of each new text behind its parent's.

    Args:
        beam: the texts.
        new: negative for those that are not new.
    """
    lines = zip(beam.texts, beam.last.tolist(), new >= 0, strict=True)
    texts = [(*text, token) if is_new else text for text, token, is_new in lines]
    return replace(beam, texts=_column(texts))


def _likely(frame: Scores) -> Tokens:
    """Return the tokens that may extend a text in a frame."""
    if frame[0] >= _SURE:
        return np.zeros(0, np.int64)
    count = min(_LIKELY, len(frame))
    likely = np.argpartition(-frame, count - 1)[:count]
    near: Tokens = likely[(likely != 0) & (frame[likely] > _FAR)]
    return near


__all__ = ["BeamSearch"]
