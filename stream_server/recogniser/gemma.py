"""Gemma's tokenizer and the prompt of the published model.

The wording of the published prompt is not public (nor is where in it the audio stands); what is
here follows the chat template of the backbone, audio tokens standing where ``<|audio|>`` (258881)
would, between the two halves of the prompt, and an adapter's ``config.json`` may say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from stream_server.errors import ModelError

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """What is said to the model around the audio."""

    before: str = "<bos><|turn>user\n"
    after: str = "{instruction}<turn|>\n<|turn>model\n"
    instruction: str = "Transcribe the speech."
    """Where no language is asked for."""
    language_instruction: str = "Transcribe the speech in {language}."
    ends: tuple[int, ...] = (1, 106, 50)
    """Tokens that end a text; the first of them ends a draft."""
    ctc_blank: int = 0


_NAMES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "hi": "Hindi",
    "zh": "Chinese",
}


class GemmaTokenizer:
    """Gemma's encoding, read from the backbone's ``tokenizer.json``."""

    def __init__(
        self, tokenizer: _Tokenizer, languages: Sequence[str], prompt: PromptConfig
    ) -> None:
        self._tokenizer = tokenizer
        self._languages = tuple(languages)
        self._prompt = prompt
        self.ends = frozenset(prompt.ends)
        added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset(added)

    @classmethod
    def load(cls, folder: Path, languages: Sequence[str], prompt: PromptConfig) -> GemmaTokenizer:
        """Read the encoding of a backbone.

        Raises:
            ModelError: it is not there.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{path} is missing: the backbone's folder must hold its tokenizer")
        return cls(_Tokenizer.from_file(str(path)), languages, prompt)

    def language(self, language: str | None) -> int:
        """Return the number of the prompt that asks for ``language``; 0 asks for any."""
        return self._languages.index(language) + 1 if language in self._languages else 0

    def prompts(self) -> list[tuple[list[int], list[int]]]:
        """Return each prompt's tokens before and after the audio, by number of language."""
        prompt = self._prompt
        asked = [prompt.instruction]
        for language in self._languages:
            name = _NAMES.get(language, language)
            asked.append(prompt.language_instruction.format(language=name))
        return [
            (self.encode(prompt.before), self.encode(prompt.after.format(instruction=said)))
            for said in asked
        ]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of ``text``; special ones only where they are written out."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def piece(self, token: int) -> str:
        """Return the text of one token, its space included; specials in angle brackets."""
        return (self._tokenizer.id_to_token(token) or "").replace(_SPACE, " ")

    def words(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Group tokens into words; see ``network.TextCodec``.

        A word begins with a space, or is a piece of ideographs: Chinese is written without spaces.
        """
        words: list[tuple[str, list[int]]] = []
        for text, places in self._characters(tokens):
            last = words[-1][0].strip() if words else ""
            begins = text[0].isspace() or _IDEOGRAPH.match(text) or _IDEOGRAPH.match(last)
            if words and not (begins and last):
                words[-1] = (words[-1][0] + text, [*words[-1][1], *places])
            else:
                words.append((text, list(places)))
        if words:
            words[0] = (words[0][0].lstrip(), words[0][1])
        return [word for word in words if word[0].strip()]

    def _characters(self, tokens: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
        """Yield text by token; the bytes of one character together."""
        raw = b""
        held: list[int] = []
        for place, token in enumerate(tokens):
            if token in self._special:
                continue
            piece = self.piece(token)
            byte = _BYTE.fullmatch(piece)
            if byte:
                raw, held = raw + bytes([int(byte[1], 16)]), [*held, place]
                text = raw.decode(errors="ignore")
                if text and text.encode() == raw:
                    yield text, held
                    raw, held = b"", []
                continue
            # Bytes that never became a character are dropped, as a garbled canvas may have them.
            raw, held = b"", []
            if piece:
                yield piece, [place]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens``."""
        return "".join(text for text, _ in self.words(tokens)).strip()


__all__ = ["GemmaTokenizer", "PromptConfig"]
