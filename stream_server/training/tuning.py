"""Find how much the language model weighs beside CTC, on clips kept from training.

Of the clips of each set that a recipe keeps from training, every second one decides; the others
say whether what was found holds for clips that decided nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import jiwer
import numpy as np
import torch

from stream_server.recogniser.beam import BeamSearch
from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.draft import Candidate, DraftConfig, Logs
from stream_server.recogniser.model import TranscriptionModel
from stream_server.recogniser.network import TextCodec
from stream_server.recogniser.tokenizer import END, TEXT, Tokenizer
from stream_server.training.data import Clip
from stream_server.training.pack import RATE, read_clip

START = DraftConfig(
    candidates=12, beam=48, causal=0.0, language=0.4, token=1.6, unknown=2.5, temperature=1.3
)
"""Good for the checkpoint that ships."""
STEPS: Mapping[str, tuple[float, ...]] = {
    "language": (-0.1, 0.1),
    "token": (-0.4, 0.4),
    "unknown": (-0.75, 0.75),
    "temperature": (-0.3, 0.3),
}
"""What is tried of each weight around the best so far."""
CAUSAL = (0.0, 0.1, 0.2, 0.4, 0.7)
"""What is tried of the causal half's weight, in the end."""
_ENOUGH = 0.001
"""By how much the word error rate must fall for a round to be followed by another."""


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What CTC hears in a clip."""

    set: str
    text: str
    """What was said."""
    logs: Logs
    prompt: PromptCache
    decides: bool
    """Whether it takes part in the choice."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Word error rates, the mean over the sets."""

    deciding: float
    other: float
    """Of the clips that decide nothing."""


@torch.inference_mode()
def hear(
    model: TranscriptionModel, tokenizer: Tokenizer, tests: Mapping[str, Sequence[Clip]], most: int
) -> list[Heard]:
    """Run the network on at most ``most`` clips of each set."""
    found = []
    for name, clips in sorted(tests.items()):
        short = [clip for clip in clips if clip.duration < model.config.max_seconds - 1]
        picks = np.linspace(0, len(short) - 1, min(most, len(short))).astype(int)
        for number, pick in enumerate(picks):
            pcm = read_clip(short[pick]).astype(np.float32) / 32768
            padded = torch.from_numpy(np.pad(pcm, RATE // 5))[None]
            language = torch.tensor([tokenizer.language("en")])
            encoded = model.listen(padded, torch.tensor([padded.shape[1]]))
            (logs,), prompt = model.ctc_logs(encoded), model.prefill(encoded, language).row(0)
            found.append(Heard(name, short[pick].text, logs, prompt, number % 2 == 0))
    return found


class Tuner:
    """Tries weights on what was heard."""

    def __init__(
        self,
        model: TranscriptionModel,
        tokenizer: TextCodec,
        heard: Sequence[Heard],
        report: Callable[[DraftConfig, Rates], None],
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._heard = heard
        self._report = report

    def tune(self, start: DraftConfig) -> DraftConfig:
        """Return the best weights that steps from ``start`` lead to."""
        best, least = start, self.rates(start).deciding
        fell = True
        while fell:
            tried = [
                replace(best, **{name: value})
                for name, steps in STEPS.items()
                for step in steps
                if (value := round(getattr(best, name) + step, 3)) >= (name == "temperature")
            ]
            rates = [self.rates(each).deciding for each in tried]
            fell = min(rates) < least - _ENOUGH
            if fell:
                least = min(rates)
                best = tried[rates.index(least)]
        return self._with_causal(best)

    def rates(self, config: DraftConfig) -> Rates:
        """Return the word error rates of a configuration without the causal half."""
        search = BeamSearch(replace(config, candidates=1), self._model.language)
        return self._score(config, [search.candidates(each.logs)[0].tokens for each in self._heard])

    @torch.inference_mode()
    def _with_causal(self, config: DraftConfig) -> DraftConfig:
        search = BeamSearch(config, self._model.language)
        found = [search.candidates(each.logs) for each in self._heard]
        read = [
            self._model.decoder.read([c.tokens for c in candidates], each.prompt, TEXT, END)
            for candidates, each in zip(found, self._heard, strict=True)
        ]
        tried = [replace(config, causal=weight) for weight in CAUSAL]
        rates = [
            self._score(
                each, [_best(*pair, each.causal) for pair in zip(found, read, strict=True)]
            ).deciding
            for each in tried
        ]
        return tried[rates.index(min(rates))]

    def _score(self, config: DraftConfig, texts: Sequence[Sequence[int]]) -> Rates:
        spoken = [
            "".join(word for word, _ in self._tokenizer.words(tokens)).strip() for tokens in texts
        ]
        halves = []
        for decides in (True, False):
            sets: dict[str, list[tuple[str, str]]] = {}
            for each, text in zip(self._heard, spoken, strict=True):
                if each.decides == decides:
                    sets.setdefault(each.set, []).append((each.text, text))
            rates = [jiwer.wer(*map(list, zip(*pairs, strict=True))) for pairs in sets.values()]
            halves.append(float(np.mean(rates)) if rates else 0.0)
        result = Rates(*halves)
        self._report(config, result)
        return result


def _best(found: Sequence[Candidate], read: Sequence[float], weight: float) -> tuple[int, ...]:
    scores = [each.score + weight * log for each, log in zip(found, read, strict=True)]
    return found[scores.index(max(scores))].tokens


def describe(config: DraftConfig) -> str:
    """Return a configuration in one line."""
    return " ".join(f"{item.name}={getattr(config, item.name):g}" for item in fields(config))


__all__ = ["CAUSAL", "START", "STEPS", "Heard", "Rates", "Tuner", "describe", "hear"]
