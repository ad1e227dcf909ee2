"""How people who learnt English later say it: what they put for sounds that their language lacks.

The habits are those that Swan and Smith describe by first language (Learner English, Cambridge,
2001), in the symbols of :mod:`stream_server.training.kokoro`. No speaker has all of them, nor any
of them always.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

Habit = tuple[str, str]
"""A pattern of symbols, and what is said for it."""

_END = "(?=[ .])"
_NOT_FIRST = "(?<=[^ˈˌ ])"
_BRITISH = (("O", "Q"), ("æ", "a"), ("T", "t"))

_CHINESE: tuple[Habit, ...] = (
    ("θ", "s"),
    ("ð", "d"),
    ("θ", "f"),
    ("ð", "z"),
    ("v", "w"),
    (f"v{_END}", "f"),
    ("z", "s"),
    ("ʒ", "ɹ"),
    ("ʤ", "ʧ"),
    ("ɪ", "i"),
    ("i", "ɪ"),
    ("æ", "ɛ"),
    ("A", "ɛ"),
    ("ʌ", "ɑ"),
    ("ʊ", "u"),
    ("O", "ɔ"),
    ("ŋ", "n"),
    (f"n{_END}", "ŋ"),
    (f"{_NOT_FIRST}l(?=[^ˈˌ aeiouɑɔəɛɪʊʌæAIOQWY])", "ʊ"),
    (f"{_NOT_FIRST}l{_END}", "ʊ"),
    (f"{_NOT_FIRST}m{_END}", "n"),
    (f"{_NOT_FIRST}d{_END}", "t"),
    (f"{_NOT_FIRST}ɡ{_END}", "k"),
    (f"{_NOT_FIRST}b{_END}", "p"),
    (f"{_NOT_FIRST}[tdk]{_END}", ""),
    (f"{_NOT_FIRST}([tdkɡpbsz]){_END}", "\\1ə"),
    ("T", "t"),
    ("əɹ", "ə"),
    ("ɜɹ", "ə"),
    ("l", "n"),
    ("n(?=[ˈˌ]?[aeiouɑɔəɛɪʊʌæAIOQWY])", "l"),
    ("ɹ", "w"),
    ("ɹ", "l"),
    (f"{_NOT_FIRST}ɹ(?=[aeiouɑɔəɛɪʊʌæAIOQWY])", ""),
    ("ʃ", "s"),
    ("ɛ", "æ"),
    ("ɛ", "ɪ"),
    ("u", "ʊ"),
    ("ɑ", "ʌ"),
    ("W", "ɑ"),
    ("I", "a"),
    ("A", "ɪ"),
    (f"{_NOT_FIRST}n{_END}", ""),
    (f"{_NOT_FIRST}[sz]{_END}", ""),
    (f"(?<=[nlskpf])[tdsz]{_END}", ""),
    (f"{_NOT_FIRST}([tdkɡpbsz])(?=[tdkɡpbszlɹmnf])", "\\1ə"),
)
_SOUTH_ASIAN: tuple[Habit, ...] = (
    ("θ", "t"),
    ("ð", "d"),
    ("[vw]", "ʋ"),
    ("w", "v"),
    ("[tT]", "ʈ"),
    ("d", "ɖ"),
    ("ɹ", "ɾ"),
    ("z", "s"),
    ("ʒ", "z"),
    ("O", "oː"),
    ("A", "eː"),
    ("ə", "ʌ"),
    ("ᵊ", "ə"),
    ("æ", "ɛ"),
    ("ɔ", "ɑ"),
)
_ROMANCE: tuple[Habit, ...] = (
    ("θ", "t"),
    ("ð", "d"),
    ("θ", "s"),
    ("ð", "z"),
    ("ɪ", "i"),
    ("ʊ", "u"),
    ("ʌ", "a"),
    ("æ", "a"),
    ("ə", "ɛ"),
    ("O", "o"),
    ("h", ""),
    ("ŋ", "nɡ"),
    ("(?<= )(ˈ?)s(?=[tpkmnl])", "\\1ɛs"),
    (f"z{_END}", "s"),
    (f"{_NOT_FIRST}[td]{_END}", ""),
    ("ɹ", "ɾ"),
    ("ʤ", "j"),
    ("T", "t"),
)
_JAPANESE: tuple[Habit, ...] = (
    ("θ", "s"),
    ("ð", "z"),
    ("v", "b"),
    ("[lɹ]", "ɾ"),
    ("f", "ɸ"),
    ("ɪ", "i"),
    ("æ", "a"),
    ("ʌ", "a"),
    ("ə", "a"),
    ("O", "oː"),
    ("A", "eː"),
    (f"{_NOT_FIRST}([tdkɡpbszf]){_END}", "\\1ɯ"),
    ("T", "t"),
)
_GERMANIC: tuple[Habit, ...] = (
    ("θ", "s"),
    ("ð", "z"),
    ("ð", "d"),
    ("w", "v"),
    ("æ", "ɛ"),
    ("ʤ", "ʧ"),
    (f"{_NOT_FIRST}z{_END}", "s"),
    (f"{_NOT_FIRST}v{_END}", "f"),
    (f"{_NOT_FIRST}d{_END}", "t"),
    ("ɹ", "ʁ"),
    ("O", "oː"),
    *_BRITISH,
)
_USUAL = 28
"""Habits of an accent whose strength is taken as it is drawn."""
_BY_VOICE: Mapping[str, tuple[Habit, ...]] = {
    "z": _CHINESE,
    "h": _SOUTH_ASIAN,
    "j": _JAPANESE,
    "e": _ROMANCE,
    "f": _ROMANCE,
    "i": _ROMANCE,
    "p": _ROMANCE,
}
"""By the first letter of a voice's name, which tells its language."""


def draw_habits(voice: str, chance: random.Random) -> tuple[Habit, ...]:
    """Draw what one speaker puts for sounds, or nothing.

    Args:
        voice: its name. One of another language most often has its accent, an English one
            sometimes any.
        chance: what is drawn from.
    """
    accent = _BY_VOICE.get(voice[0])
    if chance.random() > (0.85 if accent else 0.5):
        return ()
    if accent is None:
        every = (_CHINESE, _SOUTH_ASIAN, _ROMANCE, _GERMANIC, _JAPANESE)
        accent = chance.choices(every, (0.6, 0.15, 0.1, 0.1, 0.05))[0]
    # Of a longer list no more are had.
    strength = chance.uniform(0.1, 0.6) * min(1.0, _USUAL / len(accent))
    return tuple(habit for habit in accent if chance.random() < strength)


def say_by_habit(said: str, habits: tuple[Habit, ...], chance: random.Random) -> str:
    """Return symbols as a speaker of these habits says them, each in three places of four."""
    for pattern, spoken in habits:
        said = re.sub(
            pattern,
            lambda found, spoken=spoken: (  # type: ignore[misc]
                found.expand(spoken) if chance.random() < 0.75 else found.group()
            ),
            said,
        )
    return said


def hesitate(said: str, share: float, chance: random.Random) -> str:
    """Return symbols with a pause behind this share of the words."""
    first, *others = said.split(" ")
    return first + "".join(f"{',' if chance.random() < share else ''} {word}" for word in others)


__all__ = ["Habit", "draw_habits", "hesitate", "say_by_habit"]
