"""Error rates are those of a hand count."""

from __future__ import annotations

import pytest

from stream_server.evaluation.scoring import Pair, interval, normaliser, score


def test_words_and_characters_are_counted() -> None:
    scored = score([Pair("the cat sat", "the bat sat on", "en"), Pair("yes", "yes", "en")])
    assert scored.words == 4
    assert scored.word.value == pytest.approx(2 / 4)
    assert scored.character.value == pytest.approx((1 + 3) / (11 + 3))
    assert scored.metric == "wer"
    assert scored.headline == scored.word
    assert scored.word.low <= scored.word.value <= scored.word.high


def test_the_normaliser_is_whispers() -> None:
    pair = Pair("Mr. Smith's colour, it's £20!", "mister smith's color it is 20 pounds", "en")
    assert score([pair]).word.value == 0


def test_nothing_said_makes_every_word_an_error() -> None:
    # Whisper's normaliser takes hesitations out, and nothing is left of this reference.
    scored = score([Pair("hmm", "hello you", "en"), Pair("good day", "good day", "en")])
    assert scored.words == 2
    assert scored.word.value == pytest.approx(1.0)


def test_hindi_and_mandarin_go_by_characters() -> None:
    assert score([Pair("你好 世界", "你好世界", "zh")]).character.value == 0
    mandarin = score([Pair("你好世界", "你好时界", "zh")])
    assert mandarin.metric == "cer"
    assert mandarin.headline.value == pytest.approx(1 / 4)
    # The vowel sign is a character of its own, and differs.
    assert score([Pair("कि", "का", "hi")]).headline.value == pytest.approx(1 / 2)
    both = score([Pair("你好", "你好", "zh"), Pair("hello", "hello", "en")])
    assert both.metric == "wer"


def test_spelled_keeps_digit_strings_apart() -> None:
    assert normaliser("en", spelled=True)("One, two!").split() == ["one", "two"]
    assert normaliser("en")("one two") == "12"
    assert normaliser("de")("Größe!").strip() == "größe"


def test_interval_is_a_point_where_every_clip_is_alike() -> None:
    assert interval([1, 1, 1], [4, 4, 4]) == (0.25, 0.25)
    low, high = interval([0, 4, 0, 4], [4, 4, 4, 4])
    assert low < 0.5 < high
    assert interval([0, 0], [0, 0]) == (0.0, 0.0)
