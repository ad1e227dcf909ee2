"""Gemma's tokens become words, whatever a garbled canvas puts together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.errors import ModelError
from stream_server.recogniser.gemma import GemmaTokenizer, PromptConfig

PROMPT = PromptConfig()


@pytest.fixture(scope="session")
def gemma(published_folders: Any) -> GemmaTokenizer:
    return GemmaTokenizer.load(published_folders.backbone, ("en", "zh", "xx"), PROMPT)


@pytest.mark.parametrize(
    "text",
    [
        "the quick brown fox",
        "don't you think",
        "\u4f60\u597d",
        "na\u00efve \u20ac \U0001f600 x",
        "a",
    ],
)
def test_text_comes_back(gemma: GemmaTokenizer, text: str) -> None:
    tokens = gemma.encode(text)
    assert gemma.decode(tokens) == text
    words = gemma.words(tokens)
    assert "".join(word for word, _ in words) == text
    assert [place for _, places in words for place in places] == [*range(len(tokens))]


def test_words_begin_with_spaces_and_ideographs_stand_alone(gemma: GemmaTokenizer) -> None:
    text = "the fox \u4f60\u597d\u4f60\u597dok don't"
    words = [word for word, _ in gemma.words(gemma.encode(text))]
    assert words[:2] == ["the", " fox"]
    assert words[-2:] == ["ok", " don't"]
    # Chinese has no spaces: each piece of the encoding is a word.
    assert len(words) >= 5
    assert "".join(words) == text


def test_specials_and_broken_characters_belong_to_no_word(gemma: GemmaTokenizer) -> None:
    euro = gemma.encode("\u20ac")
    assert [gemma.piece(token) for token in euro] == ["<0xE2>", "<0x82>", "<0xAC>"]
    fox = gemma.encode(" fox")
    words = gemma.words([2, *euro[:2], *fox, euro[2], 1])
    assert [word for word, _ in words] == ["fox"]
    assert words[0][1] == [*range(3, 3 + len(fox))]


@given(st.lists(st.integers(0, 419), max_size=30))
def test_any_tokens_are_words(gemma: GemmaTokenizer, tokens: list[int]) -> None:
    words = gemma.words(tokens)
    places = [place for _, own in words for place in own]
    assert places == sorted(set(places))
    assert all(word.strip() for word, _ in words)
    assert not words or not words[0][0][0].isspace()


def test_prompts_follow_the_chat_template(gemma: GemmaTokenizer) -> None:
    prompts = gemma.prompts()
    assert len(prompts) == 4
    before, after = prompts[gemma.language("zh")]
    assert "".join(map(gemma.piece, before)) == "<bos><|turn>user\n"
    assert "".join(map(gemma.piece, after)) == (
        "Transcribe the speech in Chinese.<turn|>\n<|turn>model\n"
    )
    assert before[0] == 2
    assert "".join(map(gemma.piece, prompts[0][1])).startswith("Transcribe the speech.<turn|>")
    assert gemma.language(None) == gemma.language("fr") == 0
    assert "in xx." in "".join(map(gemma.piece, prompts[3][1]))


def test_the_published_numbers() -> None:
    assert PROMPT.ends == (1, 106, 50)


def test_a_folder_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer.json is missing"):
        GemmaTokenizer.load(tmp_path, (), PROMPT)
