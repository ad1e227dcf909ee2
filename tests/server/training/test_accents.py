"""Learners of English put other sounds for those that their language lacks."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from stream_server.training.accents import Habit, draw_habits, hesitate, say_by_habit

ALWAYS = random.Random(0)
VOICES = ["zm_a", "hf_b", "jf_c", "ef_d", "ff_e", "if_f", "pm_g", "af_h", "bm_i"]
SAID = "ðə θˈɪŋ ɪz ˈOld ənd vˈɛɹi smˈɔl, spˈik wˈɛl hˈæf ɡˈAmz fˈInd bˈɛTəɹ ʤˈʌmp mˈɛʒəɹ."


def _often(said: str, habits: tuple[Habit, ...]) -> set[str]:
    return {say_by_habit(said, habits, random.Random(seed)) for seed in range(40)}


def test_a_habit_holds_in_most_places_and_not_in_all() -> None:
    heard = _often("θˈɪŋ θˈɪŋ θˈɪŋ.", (("θ", "s"),))
    assert heard == {f"{a}ˈɪŋ {b}ˈɪŋ {c}ˈɪŋ." for a in "sθ" for b in "sθ" for c in "sθ"}
    many = say_by_habit("θ" * 2000, (("θ", "s"),), ALWAYS)
    assert many.count("s") / 2000 == pytest.approx(0.75, abs=0.04)


def test_a_habit_can_add_a_sound_to_what_it_finds() -> None:
    assert _often("hˈænd.", (("([td])(?=[ .])", "\\1ə"),)) == {"hˈænd.", "hˈændə."}


def test_nobody_without_habits_is_changed() -> None:
    assert say_by_habit(SAID, (), ALWAYS) == SAID


def test_voices_of_other_languages_have_accents_oftener_than_english_ones() -> None:
    chance = random.Random(1)
    for voice, least, most in (("zf_x", 0.75, 0.9), ("af_x", 0.4, 0.52)):
        share = sum(bool(draw_habits(voice, chance)) for _ in range(2000)) / 2000
        assert least < share < most, voice


def test_a_chinese_voice_has_no_habit_of_another_language() -> None:
    chance = random.Random(2)
    drawn = {habit for _ in range(500) for habit in draw_habits("zf_x", chance)}
    assert ("θ", "s") in drawn
    assert ("[vw]", "ʋ") not in drawn


def test_a_long_list_of_habits_makes_no_stronger_accent() -> None:
    chance = random.Random(5)
    for voice in ("zf_x", "hf_x"):
        counts = [len(draw_habits(voice, chance)) for _ in range(2000)]
        assert 4 < sum(counts) / len(counts) < 9, voice
        assert max(counts) <= 26, voice


def test_who_hesitates_stops_behind_some_words_and_not_behind_the_last() -> None:
    said = "wˈʌn tˈu θɹˈi."
    assert hesitate(said, 0.0, ALWAYS) == said
    assert hesitate(said, 1.0, ALWAYS) == "wˈʌn, tˈu, θɹˈi."
    heard = {hesitate(said, 0.5, random.Random(seed)) for seed in range(40)}
    assert heard == {f"wˈʌn{a} tˈu{b} θɹˈi." for a in ("", ",") for b in ("", ",")}
    assert hesitate("", 0.5, ALWAYS) == ""


def test_the_same_chance_draws_the_same() -> None:
    first, second = (draw_habits("zf_x", random.Random(3)) for _ in range(2))
    assert first == second


def test_every_accent_changes_speech_into_symbols_that_the_network_knows() -> None:
    known = set(json.loads(Path(__file__).with_name("symbols.json").read_text("utf-8")))
    chance = random.Random(4)
    for voice in VOICES:
        heard = [say_by_habit(SAID, draw_habits(voice, chance), chance) for _ in range(300)]
        assert any(each != SAID for each in heard), voice
        assert set("".join(heard)) <= known, voice
