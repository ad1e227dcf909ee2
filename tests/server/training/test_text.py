"""Text to synthesise from: what can be said, and nothing that is tested on."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_server.training.data import Clip
from stream_server.training.text import (
    plain_sentences,
    read_prose,
    read_sentences,
    read_webster,
    read_wordnet,
    sealed_texts,
)

LONG = "a sentence of more than five words"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["one", "two", LONG, LONG + " too"]), max_size=8), st.data())
def test_nothing_that_is_tested_on_is_synthesised(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    path.write_text("".join(f"id{n}|{text}.\n" for n, text in enumerate(texts)))
    tested = data.draw(st.lists(st.integers(0, 9), max_size=4))
    said = data.draw(st.lists(st.sampled_from(["one", LONG]), max_size=2))
    tests = {
        "read": [Clip(Path(f"id{number}.opus"), "else", "", 1.0, "read") for number in tested],
        "said": [Clip(Path("x.opus"), text, "", 1.0, "said") for text in said],
    }
    expected = [text for n, text in enumerate(texts) if n not in tested and text not in said]
    assert read_sentences(path, tests) == expected


def test_lines_that_are_no_plain_text_are_not_synthesised(tmp_path: Path) -> None:
    path = tmp_path / "sentences.txt"
    path.write_text("a|In 1845 it was.\nb|\nnothing\nc|It was.\n")
    assert read_sentences(path, {}) == ["it was"]


def test_glosses_and_examples_of_wordnet_become_sentences(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(
        "  1 This software and database is licensed\n"
        '00001 03 n 01 cat 0 | a small feline; "The cat sat down."; "cats"\n'
        '00002 03 n 01 year 0 | a date; "it was in 1845 or so"; "the cat sat down"\n'
    )
    (tmp_path / "data.verb").write_text('00003 29 v 01 go 0 | move; "they went home early"\n')
    (tmp_path / "index.noun").write_text('x | "this is no data at all"\n')
    found = plain_sentences(read_wordnet(tmp_path), set())
    assert found == ["the cat sat down", "a small feline", "they went home early"]


def test_prose_is_split_into_clauses_without_references(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("Ge1:2 And the earth was void; and darkness was there. So.\nNo more of it!\n")
    assert plain_sentences(read_prose(path), set()) == [
        "and the earth was void",
        "and darkness was there",
        "no more of it",
    ]


def test_of_webster_only_what_is_of_1913_is_read(tmp_path: Path) -> None:
    path = tmp_path / "gcide.dict.dz"
    path.write_bytes(
        gzip.compress(
            b"Coak \\Coak\\, n.\n   1. (Carp.) A kind of tenon [see below] connecting two\n"
            b"      timbers. Used to-day in 2 ways. --Shak.\n      [1913 Webster]\n\n"
            b"   A word of our own time only.\n   [PJC]\n\n"
            b"   To go {home} again.\n   [1913 Webster]\n"
        )
    )
    assert plain_sentences(read_webster(path), set()) == [
        "a kind of tenon connecting two timbers",
        "to go home again",
    ]


def test_sentences_are_taken_once_unless_tested_on_or_too_short_or_long() -> None:
    raw = ["One two three.", "one, two, three", "one two", "a b c d e f", "say what is sealed"]
    assert plain_sentences(raw, {"say what is sealed"}, most=5) == ["one two three"]
    assert plain_sentences(raw, set(), least=2, most=2) == ["one two"]


def test_every_test_sentence_is_sealed() -> None:
    clips = [Clip(Path("a"), "one", "", 1.0, "x"), Clip(Path("b"), "two", "", 1.0, "x")]
    assert sealed_texts({"x": clips[:1], "y": clips[1:]}) == {"one", "two"}
