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
    candidates=12,
    beam=48,
    causal=0.0,
    language=0.45,
    token=1.8,
    unknown=3.0,
    phones=0.25,
    temperature=1.3,
)
"""Good for the checkpoint that ships."""
STEPS: tuple[Mapping[str, float], ...] = (
    {"language": 0.1, "token": 0.4},
    {"token": 0.3},
    {"temperature": 0.3},
    {"unknown": 1.0},
    {"language": 0.1},
    {"phones": 0.1},
)
"""What is added to the best weights so far, and taken from them, one after the other. A language
model that weighs more makes texts shorter, so tokens must then be given more."""
CAUSAL = (0.0, 0.1, 0.2, 0.4, 0.7)
"""What is tried of the causal half's weight, in the end."""
_ENOUGH = 0.002
"""By how much the word error rate must fall for a step to be taken; less is chance."""
_WORTH = 0.01
"""By how much for the causal half to be asked: that takes as long as the search."""
_ROUNDS = 3
"""Times that every step is tried, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What CTC hears in a clip."""

    set: str
    text: str
    """What was said."""
    logs: Logs
    phones: Logs | None
    """What is heard of phones, if anything."""
    prompt: PromptCache
    decides: bool
    """Whether it takes part in the choice."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Word error rates, the mean over the sets."""

    deciding: float
    other: float | None
    """Of the clips that decide nothing; none where they were not heard."""


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
            (logs,), (phones,) = model.ctc_logs(encoded), model.phone_logs(encoded)
            prompt = model.prefill(encoded, language).row(0)
            found.append(Heard(name, short[pick].text, logs, phones, prompt, number % 2 == 0))
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
        self._deciders = [each for each in heard if each.decides]
        self._others = [each for each in heard if not each.decides]
        self._report = report

    def tune(self, start: DraftConfig) -> DraftConfig:
        """Return the best weights that steps from ``start`` lead to."""
        best = self._with_causal(self._stepped(start, self.rates(start).deciding))
        self.rates(best)
        return best

    def _stepped(self, best: DraftConfig, least: float) -> DraftConfig:
        """Take every step that helps, again while it does, until none is left."""
        tried = {best}
        for _ in range(_ROUNDS):
            before = least
            for step in STEPS:
                for sign in (1, -1):
                    while (config := _moved(best, step, sign)) not in tried:
                        tried.add(config)
                        rate = self._deciding(config)
                        if rate > least - _ENOUGH:
                            break
                        best, least = config, rate
            if least == before:
                break
        return best

    def rates(self, config: DraftConfig) -> Rates:
        """Return the word error rates of a configuration without the causal half, and tell them."""
        found = [self._rate(config, each) for each in (self._deciders, self._others)]
        rates = Rates(*found)
        self._report(config, rates)
        return rates

    def _deciding(self, config: DraftConfig) -> float:
        rate = self._rate(config, self._deciders)
        self._report(config, Rates(rate, None))
        return rate

    def _rate(self, config: DraftConfig, heard: Sequence[Heard]) -> float:
        search = self._search(config)
        found = [search.candidates(each.logs, each.phones)[0].tokens for each in heard]
        return self._score(heard, found)

    def _search(self, config: DraftConfig) -> BeamSearch:
        return BeamSearch(config, self._model.language, self._model.phones)

    @torch.inference_mode()
    def _with_causal(self, config: DraftConfig) -> DraftConfig:
        search = self._search(config)
        found = [search.candidates(each.logs, each.phones) for each in self._deciders]
        read = [
            self._model.decoder.read([c.tokens for c in candidates], each.prompt, TEXT, END)
            for candidates, each in zip(found, self._deciders, strict=True)
        ]
        tried = [replace(config, causal=weight) for weight in CAUSAL]
        rates = []
        for each in tried:
            chosen = [_best(*pair, each.causal) for pair in zip(found, read, strict=True)]
            rates.append(self._score(self._deciders, chosen))
            self._report(each, Rates(rates[-1], None))
        asked = CAUSAL[rates.index(min(rates))]
        return replace(config, causal=asked if min(rates) < rates[0] - _WORTH else CAUSAL[0])

    def _score(self, heard: Sequence[Heard], texts: Sequence[Sequence[int]]) -> float:
        sets: dict[str, list[tuple[str, str]]] = {}
        for each, tokens in zip(heard, texts, strict=True):
            words = self._tokenizer.words(tokens)
            text = "".join(word for word, _ in words).strip()
            sets.setdefault(each.set, []).append((each.text, text))
        rates = [jiwer.wer(*map(list, zip(*pairs, strict=True))) for pairs in sets.values()]
        return float(np.mean(rates)) if rates else 0.0


def _moved(config: DraftConfig, step: Mapping[str, float], sign: int) -> DraftConfig:
    """Return a configuration one step further, within what makes sense."""
    moved = {}
    for name, size in step.items():
        least = 1.0 if name == "temperature" else 0.0
        moved[name] = max(least, round(getattr(config, name) + sign * size, 3))
    return replace(config, **moved)


def _best(found: Sequence[Candidate], read: Sequence[float], weight: float) -> tuple[int, ...]:
    scores = [each.score + weight * log for each, log in zip(found, read, strict=True)]
    return found[scores.index(max(scores))].tokens


def describe(config: DraftConfig) -> str:
    """Return a configuration in one line."""
    return " ".join(f"{item.name}={getattr(config, item.name):g}" for item in fields(config))


__all__ = ["CAUSAL", "START", "STEPS", "Heard", "Rates", "Tuner", "describe", "hear"]
