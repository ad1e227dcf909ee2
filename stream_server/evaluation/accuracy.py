"""Word error rate of a recogniser on a manifest, for several numbers of denoising steps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import soundfile
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from stream_server.recogniser.interface import (
    SAMPLE_RATE,
    Hypothesis,
    Pcm,
    Recogniser,
    Utterance,
)

PADDING = SAMPLE_RATE // 5
"""Samples of silence before and after a clip, as the segmenter leaves them in service."""


@dataclass(frozen=True, slots=True)
class Example:
    """A clip to be recognised."""

    audio: Path
    text: str
    language: str
    speaker: str | None
    duration: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a number of steps gave."""

    steps: int
    wer: float
    """Word errors a word of the reference; pooled over the clips."""
    wer_low: float
    """Lower end of the 95 % interval (bootstrap over clips)."""
    wer_high: float
    cer: float
    rtf: float
    """Seconds of computing a second of audio."""
    utterances: int
    steps_run: float
    """Denoising steps run a clip; fewer than ``steps`` where rows stop early."""


def read_examples(
    manifest: Path, speakers: Sequence[str] = (), limit: int = 0, longest: float = 20.0
) -> list[Example]:
    """Read the transcribed clips of a manifest.

    Args:
        manifest: JSON lines; ``audio`` is relative to it.
        speakers: only these, or all.
        limit: only so many, spread evenly over the manifest; 0 is all.
        longest: seconds over which a clip is left out.
    """
    examples = []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if not entry.get("text") or entry["duration"] > longest:
            continue
        if speakers and entry.get("speaker") not in speakers:
            continue
        path = manifest.parent / entry["audio"]
        examples.append(
            Example(path, entry["text"], entry["language"], entry.get("speaker"), entry["duration"])
        )
    if limit and len(examples) > limit:
        picks = np.linspace(0, len(examples) - 1, limit).round().astype(int)
        examples = [examples[index] for index in picks]
    return examples


def read_audio(path: Path) -> Pcm:
    """Read a clip and put silence around it."""
    pcm, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE or pcm.ndim != 1:
        raise ValueError(f"{path}: {rate} Hz, shape {pcm.shape}; manifests hold 16 kHz mono")
    return np.pad(pcm, PADDING)


def decode(recogniser: Recogniser, utterances: Sequence[Utterance]) -> list[Hypothesis]:
    """Decode utterances together, to the end of each."""
    rows = list(recogniser.start(utterances))
    last: dict[int, Hypothesis] = {}
    running = list(range(len(rows)))
    while running:
        for index, hypothesis in zip(
            running, recogniser.step([rows[index] for index in running]), strict=True
        ):
            last[index] = hypothesis
        running = [index for index in running if not last[index].is_final]
    recogniser.release(rows)
    return [last[index] for index in range(len(rows))]


def normaliser(language: str, spelled: bool) -> Callable[[str], str]:
    """Return Whisper's normaliser for a language.

    ``spelled`` keeps number words as they are: Whisper's English normaliser writes "one two" as
    "12", a single word, which suits read numbers and not digit strings.
    """
    whole = language == "en" and not spelled
    normal: Callable[[str], str] = EnglishTextNormalizer() if whole else BasicTextNormalizer()
    return normal


def interval(errors: Sequence[int], words: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of pooled errors over words."""
    chance = np.random.default_rng(seed)
    drawn = chance.integers(0, len(errors), (1000, len(errors)))
    rates = np.asarray(errors)[drawn].sum(1) / np.maximum(np.asarray(words)[drawn].sum(1), 1)
    return float(np.quantile(rates, 0.025)), float(np.quantile(rates, 0.975))


def evaluate(
    recogniser: Recogniser,
    examples: Sequence[Example],
    steps: int,
    spelled: bool = False,
    progress: Callable[[Iterable[Example]], Iterable[Example]] = lambda examples: examples,
) -> tuple[Result, list[str]]:
    """Recognise every clip, one at a time as a single stream would, and score the texts.

    Returns:
        The scores, and the text of each clip as the model gave it.
    """
    began, audio, run = time.perf_counter(), 0.0, 0
    texts = []
    for example in progress(examples):
        pcm = read_audio(example.audio)
        hypothesis = decode(recogniser, [Utterance(pcm, steps, example.language)])[0]
        texts.append(hypothesis.text.strip())
        audio += len(pcm) / SAMPLE_RATE
        run += hypothesis.step
    seconds = time.perf_counter() - began
    pairs = []
    for example, text in zip(examples, texts, strict=True):
        normal = normaliser(example.language, spelled)
        pairs.append((normal(example.text).strip(), normal(text).strip()))
    outputs = [jiwer.process_words(reference, text) for reference, text in pairs]
    errors = [o.substitutions + o.deletions + o.insertions for o in outputs]
    words = [len(reference.split()) for reference, _ in pairs]
    letters = [jiwer.process_characters(reference, text) for reference, text in pairs]
    wrong = sum(o.substitutions + o.deletions + o.insertions for o in letters)
    low, high = interval(errors, words)
    result = Result(
        steps=steps,
        wer=sum(errors) / sum(words),
        wer_low=low,
        wer_high=high,
        cer=wrong / sum(len(reference) for reference, _ in pairs),
        rtf=seconds / audio,
        utterances=len(examples),
        steps_run=run / len(examples),
    )
    return result, texts


__all__ = [
    "PADDING",
    "Example",
    "Result",
    "decode",
    "evaluate",
    "interval",
    "normaliser",
    "read_audio",
    "read_examples",
]
