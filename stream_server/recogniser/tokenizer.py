"""Text to tokens and back: a byte-pair encoding with the special tokens of the prompt.

Special ids agree with Gemma's where Gemma has one (pad 0, end 1, begin 2, unknown 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

PAD, END, BEGIN, UNKNOWN, TEXT, ANY_LANGUAGE = range(6)
LANGUAGES = ("en", "de", "fr", "es", "hi", "zh")
_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<|text|>", "<|any|>"]
_SPACE = "\u2581"


class Tokenizer:
    """A byte-pair encoding of words, each beginning with its space."""

    ends = frozenset({END})
    """Tokens that end a text."""

    def __init__(self, tokenizer: _Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size()
        self._pieces = [str(tokenizer.id_to_token(index)) for index in range(self.size)]
        self._first_piece = len(_SPECIAL) + len(LANGUAGES)

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> Tokenizer:
        """Learn the encoding of ``texts``."""
        tokenizer = _Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        special = _SPECIAL + [f"<|{language}|>" for language in LANGUAGES]
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, show_progress=False, max_token_length=12
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read an encoding that :meth:`save` wrote."""
        return cls(_Tokenizer.from_file(str(path)))

    def save(self, path: Path) -> None:
        """Write the encoding as JSON."""
        self._tokenizer.save(str(path))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of ``text``, no special ones."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def language(self, language: str | None) -> int:
        """Return the token that asks for ``language``, or for any."""
        if language not in LANGUAGES:
            return ANY_LANGUAGE
        return len(_SPECIAL) + LANGUAGES.index(language)

    def piece(self, token: int) -> str:
        """Return the text of one token, its space included; specials in angle brackets.

        A decoder may have more tokens than there are pieces; those stand for nothing.
        """
        if token >= self.size:
            return ""
        return self._pieces[token].replace(_SPACE, " ")

    def words(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Group tokens into words.

        Returns:
            For each word its text, with the space before it, and the places of its tokens.
            Special tokens belong to no word. The first word has no space before it.
        """
        words: list[tuple[str, list[int]]] = []
        for place, token in enumerate(tokens):
            if not self._first_piece <= token < self.size:
                continue
            piece = self._pieces[token]
            if piece.startswith(_SPACE) or not words:
                words.append((piece.replace(_SPACE, " ") if words else piece.lstrip(_SPACE), []))
            else:
                words[-1] = (words[-1][0] + piece, words[-1][1])
            words[-1][1].append(place)
        return [word for word in words if word[0].strip()]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens``."""
        return "".join(text for text, _ in self.words(tokens)).strip()


__all__ = [
    "ANY_LANGUAGE",
    "BEGIN",
    "END",
    "LANGUAGES",
    "PAD",
    "TEXT",
    "UNKNOWN",
    "Tokenizer",
]
