"""What a network and its tokenizer are to the recogniser.

Two families fulfil this: ``model.TranscriptionModel`` (trained from scratch, a vocabulary of
hundreds) and ``published.PublishedModel`` (a frozen 26 B backbone, a vocabulary of 262,144, whose
scores are never held for all rows at once).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from stream_server.recogniser.alignment import CtcFrames
from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.denoise import SamplerConfig, StepInput, StepResult
from stream_server.recogniser.draft import DraftConfig
from stream_server.recogniser.model import CanvasConfig
from stream_server.recogniser.support import GuardConfig

Heard = tuple[PromptCache, list[CtcFrames]]
"""What :meth:`Network.hear` returns."""


Told = tuple[Tensor, Tensor, Tensor]
"""What a step tells: the best tokens, their entropies and probabilities, [rows, canvas] each."""


class NetworkConfig(Protocol):
    """What the recogniser reads of a network's configuration."""

    @property
    def name(self) -> str:
        """What clients are told."""

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639-1 codes."""

    @property
    def max_seconds(self) -> float:
        """Seconds of the longest utterance."""

    @property
    def canvas(self) -> CanvasConfig:
        """How long canvases are."""

    @property
    def sampler(self) -> SamplerConfig:
        """How canvases are refined."""

    @property
    def guard(self) -> GuardConfig:
        """When text is dropped."""

    @property
    def draft(self) -> DraftConfig:
        """How CTC drafts and guides."""


class Network(Protocol):
    """Audio to prompts, and one denoising step."""

    @property
    def config(self) -> NetworkConfig:
        """Its configuration."""

    @property
    def vocabulary(self) -> int:
        """Tokens that the decoder knows."""

    @property
    def conditioning_size(self) -> int:
        """Features of ``StepInput.conditioning``."""

    @property
    def samples_per_ctc_frame(self) -> int:
        """Samples that one CTC frame stands for."""

    def to(self, device: torch.device) -> Any:
        """Move all of it to ``device``, in place."""

    def hear(self, pcm: Tensor, lengths: Tensor, languages: Tensor) -> Heard:
        """Turn audio into prompts and CTC frames.

        Args:
            pcm: [rows, samples], zero after each row's length, in [-1, 1].
            lengths: [rows], samples.
            languages: [rows], as :meth:`TextCodec.language` numbers them.
        """

    def step(self, rows: StepInput, cache: PromptCache) -> StepResult:
        """Run one denoising step."""


@runtime_checkable
class Listener(Protocol):
    """A network that listens while a step runs."""

    def begin(self, pcm: Tensor, lengths: Tensor, languages: Tensor) -> Callable[[], Heard]:
        """Begin what :meth:`Network.hear` does; what is returned waits for it.

        The arguments lie on the host. What was launched before the last step is done before it
        begins, the step itself need not be.
        """


@runtime_checkable
class Keeper(Protocol):
    """A network in which the state of rows stays between their steps.

    So what a step needs is there before it is known who is in it, and nothing is left to do before
    its launch but to name them.
    """

    def lay(self, rows: StepInput, cache: PromptCache) -> None:
        """Lay canvases, and set all that the next step of these rows needs."""

    def stir(
        self, temperature: Tensor, generators: Sequence[torch.Generator], cache: PromptCache
    ) -> None:
        """Set what the next step of rows needs besides what their last one left.

        Args:
            temperature: [rows].
            generators: of the rows; each is drawn from once.
            cache: prompts of the rows.
        """

    def run(self, sizes: Sequence[int], cache: PromptCache) -> Told:
        """Run one denoising step of rows.

        Args:
            sizes: canvas positions of each row.
            cache: their prompts.
        """


class TextCodec(Protocol):
    """Tokens to text."""

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text."""

    def language(self, language: str | None) -> int:
        """Return the number by which the network's prompt knows a language, or any."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of ``text``, no special ones."""

    def piece(self, token: int) -> str:
        """Return the text of one token, its space included."""

    def words(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Group tokens into words: the text of each, and the places of its tokens."""


__all__ = ["Heard", "Keeper", "Listener", "Network", "NetworkConfig", "TextCodec", "Told"]
