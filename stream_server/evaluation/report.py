"""Results of an evaluation: plain numbers, a table for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
from rich.box import SIMPLE
from rich.table import Table

from stream_client.load import Latency
from stream_server.evaluation.accuracy import Heard
from stream_server.evaluation.scoring import BY_CHARACTER, score
from stream_server.evaluation.track import Track
from stream_server.recogniser.support import GuardConfig


@dataclass(frozen=True, slots=True)
class Decoding:
    """How clips were decoded."""

    steps: int | None
    """Denoising steps at most; none of a recogniser without steps."""
    start: str | None = None
    """What a canvas began from: ``noise``, ``ctc`` or ``masks``."""
    scheme: str | None = None
    """The checkpoint's diffusion."""
    batch: int = 1
    """Clips decoded together."""
    guard: GuardConfig | None = None
    """When text is dropped; none where nothing of the kind is."""


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a set of clips gave. Rates are fractions, pooled over the clips."""

    set: str
    """Name of the manifest's folder; ``all`` for every clip of a language."""
    language: str | None
    """None where a set has several, or nobody speaks."""
    steps: int | None
    metric: str
    """The headline: ``wer``, or ``cer`` for languages where that is usual."""
    wer: float | None
    """Word errors a word; none where no text is known."""
    wer_low: float | None
    """Lower end of the 95 % interval (bootstrap over clips)."""
    wer_high: float | None
    cer: float | None
    """Character errors a character."""
    cer_low: float | None
    cer_high: float | None
    rtf: float
    """Seconds of computing a second of audio."""
    utterances: int
    audio_seconds: float
    """Decoded, padding included."""
    words: int
    """Of the references."""
    words_heard: int
    steps_run: float
    """Mean of a decode; fewer than ``steps`` where rows stop early."""
    batch: int
    start: str | None
    scheme: str | None
    guard: GuardConfig | None
    """Support by the audio under which words and texts are dropped."""
    # Of streams alone; delays are medians and 95th percentiles over segments, in milliseconds.
    first_partial_ms: float | None = None
    """From the start of speech to the first partial."""
    first_partial_p95_ms: float | None = None
    final_ms: float | None = None
    """From the end of speech to the final, the pause that proves it included."""
    final_p95_ms: float | None = None
    finalise_ms: float | None = None
    """From the end of that pause to the final: finalisation latency of the service."""
    finalise_p95_ms: float | None = None
    upwr: float | None = None
    """Unstable partial word ratio; see ``track``."""
    normalized_erasure: float | None = None
    """See ``track``."""
    partials: int | None = None


class Document(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    model: str
    results: Sequence[Result]


def summarise(name: str, heard: Sequence[Heard], decoding: Decoding, spelled: bool) -> Result:
    """Score what was heard of a set, at least one clip."""
    pairs = [each.pair for each in heard if each.example.text]
    scored = score(pairs, spelled) if pairs else None
    languages = {each.example.language for each in heard}
    result = Result(
        set=name,
        language=languages.pop() if len(languages) == 1 else None,
        steps=decoding.steps,
        metric=scored.metric if scored else "wer",
        wer=scored.word.value if scored else None,
        wer_low=scored.word.low if scored else None,
        wer_high=scored.word.high if scored else None,
        cer=scored.character.value if scored else None,
        cer_low=scored.character.low if scored else None,
        cer_high=scored.character.high if scored else None,
        rtf=sum(each.seconds for each in heard) / sum(each.audio for each in heard),
        utterances=len(heard),
        audio_seconds=sum(each.audio for each in heard),
        words=scored.words if scored else 0,
        words_heard=sum(len(each.text.split()) for each in heard),
        steps_run=sum(each.steps for each in heard) / len(heard),
        batch=decoding.batch,
        start=decoding.start,
        scheme=decoding.scheme,
        guard=decoding.guard,
    )
    tracks = [each.track for each in heard if each.track is not None]
    return _with_tracks(result, tracks) if tracks else result


def _with_tracks(result: Result, tracks: Sequence[Track]) -> Result:
    first = Latency.of([value for each in tracks for value in each.first_partial_ms])
    final = Latency.of([value for each in tracks for value in each.final_ms])
    finalise = Latency.of([value for each in tracks for value in each.finalise_ms])
    words = sum(each.words for each in tracks)
    return msgspec.structs.replace(
        result,
        first_partial_ms=first.p50 if first.count else None,
        first_partial_p95_ms=first.p95 if first.count else None,
        final_ms=final.p50 if final.count else None,
        final_p95_ms=final.p95 if final.count else None,
        finalise_ms=finalise.p50 if finalise.count else None,
        finalise_p95_ms=finalise.p95 if finalise.count else None,
        upwr=sum(each.unstable for each in tracks) / words if words else None,
        normalized_erasure=sum(each.erased for each in tracks) / words if words else None,
        partials=sum(each.partials for each in tracks),
    )


def summarise_all(
    sets: Sequence[tuple[str, Sequence[Heard]]], decoding: Decoding, spelled: bool
) -> list[Result]:
    """Score each set and, where there are several, all clips of each language together."""
    results = [summarise(name, heard, decoding, spelled) for name, heard in sets]
    if len(sets) > 1:
        together = [each for _, heard in sets for each in heard]
        for language in sorted({each.example.language or "" for each in together}):
            same = [each for each in together if (each.example.language or "") == language]
            results.append(summarise("all", same, decoding, spelled))
    return results


def encode_json(model: str, results: Sequence[Result]) -> str:
    """Return the document of a run as JSON."""
    return msgspec.json.format(msgspec.json.encode(Document(model, results)), indent=1).decode()


def tables(results: Sequence[Result]) -> list[Table]:
    """Return the results for a terminal: accuracy, and delays where clips were streamed."""
    shown = [_accuracy_table(results)]
    streamed = [each for each in results if each.partials is not None]
    if streamed:
        shown.append(_streaming_table(streamed))
    return shown


def _accuracy_table(results: Iterable[Result]) -> Table:
    table = _table("set", "", "steps", "run", "WER %", "CER %", "95 %", "RTF", "clips", "heard")
    for result in results:
        table.add_row(
            *_names(result),
            f"{result.steps_run:.1f}",
            _percent(result.wer),
            _percent(result.cer),
            _span(result),
            f"{result.rtf:.3f}",
            str(result.utterances),
            str(result.words_heard),
        )
    table.caption = (
        f"95 % interval of WER; of CER, its usual measure, for {' and '.join(BY_CHARACTER)}"
    )
    return table


def _streaming_table(results: Iterable[Result]) -> Table:
    table = _table("set", "", "steps", "first partial", "final", "finalise", "UPWR", "NE")
    for result in results:
        table.add_row(
            *_names(result),
            _delay(result.first_partial_ms, result.first_partial_p95_ms),
            _delay(result.final_ms, result.final_p95_ms),
            _delay(result.finalise_ms, result.finalise_p95_ms),
            "-" if result.upwr is None else f"{result.upwr:.3f}",
            "-" if result.normalized_erasure is None else f"{result.normalized_erasure:.3f}",
        )
    table.caption = (
        "milliseconds, median and 95th percentile: from the start of speech; from its end; "
        "from the moment at which the end is known"
    )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), caption_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in ("set", "") else "right", no_wrap=True)
    return table


def _names(result: Result) -> tuple[str, str, str]:
    steps = "-" if result.steps is None else str(result.steps)
    return result.set, result.language or "-", steps


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _span(result: Result) -> str:
    low, high = result.wer_low, result.wer_high
    if result.metric == "cer":
        low, high = result.cer_low, result.cer_high
    return "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _delay(median: float | None, late: float | None) -> str:
    return "-" if median is None or late is None else f"{median:.0f}, {late:.0f}"


__all__ = [
    "Decoding",
    "Document",
    "Result",
    "encode_json",
    "summarise",
    "summarise_all",
    "tables",
]
