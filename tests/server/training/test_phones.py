"""Words sound as espeak-ng says, without stress; what is not known is passed over."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from stream_server.training import phones
from stream_server.training.phones import Lexicon, phonemise, write_lexicon

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"
)


def test_phones_are_classes_from_one_on() -> None:
    lexicon = Lexicon({"tea": ("t", "i"), "eat": ("i", "t"), "a": ("e",)})
    assert lexicon.size == 4, "and the blank"
    tea, eat = lexicon.encode("tea"), lexicon.encode("eat")
    assert tea == eat[::-1]
    assert set(lexicon.encode("a tea")) == {1, 2, 3}
    assert lexicon.encode("eat tea a") == [*eat, *tea, *lexicon.encode("a")]


def test_unknown_words_are_left_out() -> None:
    lexicon = Lexicon({"tea": ("t", "i")})
    assert lexicon.encode("no tea today") == lexicon.encode("tea")
    assert lexicon.encode("") == []


@needs_espeak
def test_words_are_said_without_stress_and_length() -> None:
    said = phonemise(["seven", "sea", "see", "don't", "seven"])
    assert set(said) == {"seven", "sea", "see", "don't"}
    assert said["sea"] == said["see"] == ("s", "i")
    assert said["seven"][:2] == ("s", "\u025b")
    marks = set("\u02c8\u02cc\u02d0_ ")
    assert not any(marks & set(phone) for word in said.values() for phone in word)


def test_a_line_too_few_is_no_lexicon(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(stdout="w\u028cn\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(RuntimeError, match="1 of 2 words"):
        phones.phonemise(["one", "two"])


@needs_espeak
def test_a_lexicon_comes_back_as_it_was_written(tmp_path: Path) -> None:
    texts = ["the old man", "the sea"]
    write_lexicon(tmp_path / "lexicon.json", texts)
    lexicon = Lexicon.load(tmp_path / "lexicon.json")
    whole = Lexicon(phonemise(["the", "old", "man", "sea"]))
    assert lexicon.size == whole.size
    assert all(lexicon.encode(text) == whole.encode(text) for text in texts)
    assert lexicon.encode("the sea")


def test_a_word_nobody_knows_is_spelt_with_the_phones_that_there_are() -> None:
    lexicon = Lexicon({"kiss": ("k", "\u026a", "s"), "a": ("\u00e6",)})
    assert lexicon.spell("cask") == [
        *lexicon.encode("a kiss")[1:2],
        *(lexicon.encode(text)[place] for text, place in (("a", 0), ("kiss", 2), ("kiss", 0))),
    ]
    assert lexicon.spell("x") == [lexicon.encode("kiss")[0], lexicon.encode("kiss")[2]]
    assert lexicon.spell("b' 7") == []
