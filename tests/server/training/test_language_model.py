"""What is learnt from texts: shares that come to one, sources by their weights, known words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_server.errors import ConfigError
from stream_server.recogniser.ngram import NgramModel
from stream_server.recogniser.tokenizer import BEGIN, END, Tokenizer
from stream_server.training.language_model import LanguageConfig, learn, read_texts

LINES = ("the cat sat", "the cat ran", "the dog ran", "a dog sat on the cat")
OTHER = ("numbers like one two", "one two three", "one two one two")
WHOLE = LanguageConfig(order=4, entries=100_000, once=9)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([*LINES, *OTHER], 60)


def share(model: NgramModel, before: list[int], size: int) -> np.ndarray:
    """The probability of every token behind some others."""
    contexts = model.start()
    for token in before:
        contexts = model.read(contexts, np.array([token])).contexts
    every = contexts.take(np.zeros(size, np.intp))
    return np.exp(model.read(every, np.arange(size)).scores)


def test_what_may_come_next_comes_to_one(tokenizer: Tokenizer) -> None:
    model = learn({"a": LINES, "b": OTHER}, tokenizer, tokenizer.size, WHOLE)
    for text in ("", "the", "the cat", "one two three the", "a dog sat on the cat"):
        total = share(model, tokenizer.encode(text), tokenizer.size).sum()
        # Stored in steps of a sixteenth of a nat; tokens that no text has take a little.
        assert total == pytest.approx(1.0, abs=0.06), text


def test_texts_it_knows_are_likelier_than_others(tokenizer: Tokenizer) -> None:
    model = learn({"a": LINES}, tokenizer, tokenizer.size, WHOLE)

    def score(text: str) -> float:
        contexts, total = model.start(), 0.0
        for token in [*tokenizer.encode(text), END]:
            read = model.read(contexts, np.array([token]))
            contexts, total = read.contexts, total + float(read.scores[0])
        return total

    assert score("the cat sat") > score("the dog sat") > score("cat the sat")


def test_a_source_counts_by_its_weight_and_not_by_its_length(tokenizer: Tokenizer) -> None:
    texts = {"a": LINES, "b": [*OTHER] * 50}
    (the,), (one,) = tokenizer.encode("the")[:1], tokenizer.encode("one")[:1]
    shares = {}
    for weight in (1.0, 9.0):
        config = LanguageConfig(order=3, once=9, texts={"a": weight, "b": 1.0})
        shares[weight] = share(learn(texts, tokenizer, tokenizer.size, config), [], tokenizer.size)
    # Three of four texts begin with "the", two of three with "one".
    assert shares[1.0][the] == pytest.approx(0.75 / 2, abs=0.12)
    assert shares[9.0][the] > 1.4 * shares[1.0][the]
    assert shares[9.0][one] < 0.5 * shares[1.0][one]


def test_the_smaller_model_keeps_what_matters(tokenizer: Tokenizer) -> None:
    whole = learn({"a": LINES}, tokenizer, tokenizer.size, WHOLE)
    config = LanguageConfig(order=4, entries=len(whole.scores) // 2, once=9)
    small = learn({"a": LINES}, tokenizer, tokenizer.size, config)
    assert len(small.scores) < 0.8 * len(whole.scores)
    for text in ("", "the", "the cat"):
        before = tokenizer.encode(text)
        total = share(small, before, tokenizer.size).sum()
        assert total == pytest.approx(1.0, abs=0.1), text


def test_long_sequences_must_come_twice(tokenizer: Tokenizer) -> None:
    once = learn({"a": LINES}, tokenizer, tokenizer.size, LanguageConfig(order=4, once=2))
    assert len(once.scores) < len(learn({"a": LINES}, tokenizer, tokenizer.size, WHOLE).scores)


def test_words_are_known_that_come_often_enough(tokenizer: Tokenizer) -> None:
    model = learn({"a": LINES}, tokenizer, tokenizer.size, WHOLE)
    contexts = model.start()
    unknown = []
    for token in [*tokenizer.encode("the dog on cat two the"), END]:
        read = model.read(contexts, np.array([token]))
        contexts = read.contexts
        unknown.append(bool(read.unknown[0]))
    # "on" comes once, "two" never: two of the words end unknown.
    assert sum(unknown) == 2


def test_no_sequence_goes_over_the_beginning_of_a_text(tokenizer: Tokenizer) -> None:
    model = learn({"a": ["the cat"] * 3}, tokenizer, tokenizer.size, WHOLE)
    after = share(model, [*tokenizer.encode("the cat"), END], tokenizer.size)
    assert after[BEGIN] < 1e-3


def test_texts_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two\n\nthree\n")
    (tmp_path / "a.txt").write_text("one\n")
    assert read_texts(tmp_path) == {"a": ["one"], "b": ["two", "three"]}
    only = LanguageConfig(texts={"b": 2.0})
    assert read_texts(tmp_path, only.texts) == {"b": ["two", "three"]}
    with pytest.raises(ConfigError, match=r"language\.texts\.c"):
        read_texts(tmp_path, ["c"])
    with pytest.raises(ConfigError, match="texts"):
        read_texts(tmp_path / "nowhere")
