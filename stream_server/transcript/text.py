"""Words against words: where a new hypothesis goes on after text that must stay.

Pure functions on words. A word's text carries the spacing before it, so texts are joined with
nothing between; comparing looks at neither spacing, case nor punctuation.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace

from stream_server.recogniser.interface import HypothesisWord


def plain(text: str) -> str:
    """Return ``text`` as it is compared: lower case, letters and digits only.

    What has neither (a lone dash) is compared as it is.
    """
    bare = "".join(letter for letter in text.casefold() if letter.isalnum())
    return bare or text.strip()


def join(words: Sequence[HypothesisWord]) -> str:
    """Return the text of ``words``."""
    return "".join(word.text for word in words)


def without_leading_space(words: Sequence[HypothesisWord]) -> tuple[HypothesisWord, ...]:
    """Return ``words`` as the beginning of a text; words of nothing but spacing are left out."""
    kept = tuple(word for word in words if word.text.strip())
    if kept and kept[0].text[:1].isspace():
        return (replace(kept[0], text=kept[0].text.lstrip()), *kept[1:])
    return kept


def begin_at(words: Sequence[HypothesisWord], onset: int) -> tuple[HypothesisWord, ...]:
    """Return ``words`` without the first one reaching back before ``onset``.

    CTC may say a token at any frame up to the sound that it is of, and what was trained on clips
    that begin with speech says the first one as soon as there is audio.

    Args:
        words: of an utterance.
        onset: samples from its start; where speech began.
    """
    first = words[0] if words else None
    if first is None or first.start is None or first.end is None:
        return tuple(words)
    if not first.start < onset < first.end:
        return tuple(words)
    return (replace(first, start=onset), *words[1:])


def matching_end(stable: Sequence[str], words: Sequence[str]) -> int:
    """Return how many of ``words`` say what ``stable`` says, so that the rest can follow it.

    The alignment with the fewest edits (insert, delete, replace), where ``words`` may go on after
    its end. Replacing a word by a similar one costs less, and where two ends cost the same, the
    later one is taken: a word rewritten is likelier than one lost beside one that is new, and a
    word said twice reads worse than a wrong one.
    """
    costs = [float(count) for count in range(len(words) + 1)]
    for row, kept in enumerate(stable, start=1):
        previous, costs = costs, [float(row)]
        for column, word in enumerate(words, start=1):
            costs.append(
                min(
                    previous[column] + 1.0,
                    costs[column - 1] + 1.0,
                    previous[column - 1] + _replacing(kept, word),
                )
            )
    return min(range(len(costs)), key=lambda end: (costs[end], -end))


def follow(
    stable: Sequence[HypothesisWord], words: Sequence[HypothesisWord]
) -> tuple[HypothesisWord, ...]:
    """Return ``stable`` followed by what ``words`` say after it.

    Where ``words`` begin with the same texts they are returned as they are, with their newer
    times and confidences.
    """
    same = 0
    for kept, word in zip(stable, words, strict=False):
        if kept.text != word.text:
            break
        same += 1
    if same == len(stable):
        return tuple(words)
    end = same + matching_end(
        [plain(word.text) for word in stable[same:]], [plain(word.text) for word in words[same:]]
    )
    rest = list(words[end:])
    spaced = any(word.text[:1].isspace() for word in (*stable[1:], *rest))
    if rest and spaced and not rest[0].text[:1].isspace():
        rest[0] = replace(rest[0], text=f" {rest[0].text}")
    return (*words[:same], *stable[same:], *rest)


def rest(said: str, text: str) -> str:
    """Return what ``text`` says after what it has in common with ``said``.

    For what is appended to ``said`` and cannot take it back, where ``text`` may begin otherwise.
    """
    if text.startswith(said):
        return text[len(said) :]
    # Where there are no spaces, each letter is compared.
    is_spaced = any(letter.isspace() for letter in said + text)
    parts = re.findall(r"\s*\S+", text) if is_spaced else list(text)
    known = said.split() if is_spaced else list(said)
    end = matching_end([plain(each) for each in known], [plain(each) for each in parts])
    more = "".join(parts[end:])
    return f" {more}" if more and is_spaced and not more[:1].isspace() else more


def _replacing(kept: str, word: str) -> float:
    if kept == word:
        return 0.0
    return 1.0 - 0.5 * difflib.SequenceMatcher(None, kept, word, autojunk=False).ratio()


__all__ = ["begin_at", "follow", "join", "matching_end", "plain", "rest", "without_leading_space"]
