"""Text survives the way to tokens and back, and falls into words with their spaces."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_server.recogniser.tokenizer import (
    ANY_LANGUAGE,
    BEGIN,
    END,
    LANGUAGES,
    PAD,
    TEXT,
    UNKNOWN,
    Tokenizer,
)

WORDS = st.text("abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=9)
PLAIN = st.lists(WORDS, max_size=8).map(" ".join)


def token(tokenizer: Tokenizer, piece: str) -> int:
    """The token of a piece."""
    return [tokenizer.piece(index) for index in range(tokenizer.size)].index(piece)


@pytest.fixture(scope="session", autouse=True)
def _every_letter_is_known(tokenizer: Tokenizer) -> None:
    letters = {tokenizer.piece(index) for index in range(tokenizer.size)}
    assert set("abcdefghijklmnopqrstuvwxyz' ") <= letters


@given(text=PLAIN)
@settings(deadline=None, max_examples=100)
def test_plain_text_survives(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert all(value > ANY_LANGUAGE for value in tokens)


@given(text=PLAIN)
@settings(deadline=None, max_examples=100)
def test_words_are_those_of_the_text_and_hold_every_token(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    words = tokenizer.words(tokens)
    assert [word.strip() for word, _ in words] == text.split()
    assert "".join(word for word, _ in words) == text
    assert [place for _, places in words for place in places] == list(range(len(tokens)))


@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_any_tokens_fall_into_words(tokenizer: Tokenizer, data: st.DataObject) -> None:
    tokens = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=20))
    words = tokenizer.words(tokens)
    places = [place for _, places in words for place in places]
    assert places == sorted(set(places))
    assert all(tokens[place] > ANY_LANGUAGE for place in places)
    assert all(word.strip() and "<" not in word for word, _ in words)
    assert tokenizer.decode(tokens) == "".join(word for word, _ in words).strip()


def test_only_the_first_word_has_no_space_before_it(tokenizer: Tokenizer) -> None:
    tokens = [END, *tokenizer.encode("six"), PAD, *tokenizer.encode("six seven")]
    assert [word for word, _ in tokenizer.words(tokens)] == ["six", " six", " seven"]


@pytest.mark.xfail(strict=True, reason="a lone space in front counts as the first word")
def test_a_lone_space_in_front_is_no_word(tokenizer: Tokenizer) -> None:
    tokens = [token(tokenizer, " "), *tokenizer.encode("six")]
    assert [word for word, _ in tokenizer.words(tokens)] == ["six"]


def test_special_tokens_are_where_gemma_has_them(tokenizer: Tokenizer) -> None:
    assert (PAD, END, BEGIN, UNKNOWN) == (0, 1, 2, 3)
    names = [tokenizer.piece(index) for index in range(6)]
    assert names == ["<pad>", "<eos>", "<bos>", "<unk>", "<|text|>", "<|any|>"]
    assert tokenizer.piece(TEXT) == "<|text|>"
    assert tokenizer.piece(ANY_LANGUAGE) == "<|any|>"
    assert tokenizer.words([PAD, END, BEGIN, UNKNOWN, TEXT, ANY_LANGUAGE]) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_its_token(tokenizer: Tokenizer, language: str) -> None:
    assert tokenizer.piece(tokenizer.language(language)) == f"<|{language}|>"
    assert tokenizer.words([tokenizer.language(language)]) == []


@pytest.mark.parametrize("language", [None, "xx", "", "EN"])
def test_other_languages_are_any(tokenizer: Tokenizer, language: str | None) -> None:
    assert tokenizer.language(language) == ANY_LANGUAGE


def test_unknown_characters_are_left_out(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("si\u00e9x \u4e2d seven")
    assert UNKNOWN in tokens
    assert tokenizer.decode(tokens) == "six seven"


@pytest.mark.xfail(strict=True, reason="the names of special tokens are read in text too")
def test_markup_in_text_is_not_special(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("six <eos> six")
    assert END not in tokens
    assert TEXT not in tokenizer.encode("six <|text|>")


def test_nothing_is_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.words([]) == []
    assert tokenizer.decode([]) == ""


def test_frequent_words_become_one_token() -> None:
    trained = Tokenizer.train(["seven"] * 50 + ["xylophone"], 30)
    assert len(trained.encode("seven")) == 1
    assert len(trained.encode("xylophone")) > 1
    assert trained.size == 30


def test_no_piece_is_longer_than_twelve_letters() -> None:
    trained = Tokenizer.train(["incomprehensibilities"] * 50, 64)
    assert max(len(trained.piece(index).strip()) for index in range(12, trained.size)) <= 12


def test_what_is_saved_is_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.size == tokenizer.size
    for text in ("six seven", "don't z\u00e9", ""):
        assert loaded.encode(text) == tokenizer.encode(text)
    everything = range(tokenizer.size)
    assert [loaded.piece(i) for i in everything] == [tokenizer.piece(i) for i in everything]
