"""``stream-server evaluate``: accuracy and speed of a model on a manifest."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from stream_server.config import RecogniserConfig
from stream_server.errors import ModelError
from stream_server.evaluation.accuracy import Example, Result, evaluate, read_examples
from stream_server.recogniser.checkpoint import load_recogniser

app = typer.Typer(help="Measure accuracy and speed.", no_args_is_help=True)


def _steps(text: str) -> list[int]:
    try:
        steps = [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers like 1,2,4,8") from None
    if not all(1 <= step <= 64 for step in steps):
        raise typer.BadParameter("steps are from 1 to 64")
    return steps


def _table(results: Iterable[Result]) -> Table:
    table = Table("steps", "run", "WER %", "95 % interval", "CER %", "RTF", "clips")
    for result in results:
        span = f"{100 * result.wer_low:.1f} to {100 * result.wer_high:.1f}"
        table.add_row(
            str(result.steps),
            f"{result.steps_run:.1f}",
            f"{100 * result.wer:.2f}",
            span,
            f"{100 * result.cer:.2f}",
            f"{result.rtf:.3f}",
            str(result.utterances),
        )
    return table


@app.command()
def main(
    manifest: Annotated[Path, typer.Option(help="JSON lines: audio, text, language, duration.")],
    steps: Annotated[str, typer.Option(help="Denoising steps, as 1,2,4,8.")] = "8",
    model: Annotated[str, typer.Option(help="As for serve.")] = "embedded",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes every core.")] = 0,
    speaker: Annotated[
        list[str] | None, typer.Option(help="Only this speaker; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Only so many clips, spread evenly; 0: all.")] = 0,
    spelled: Annotated[bool, typer.Option(help="Keep number words as words.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    texts: Annotated[bool, typer.Option(help="Also print what was heard.")] = False,
) -> None:
    """Recognise every clip of a manifest and score it."""
    console = Console(stderr=True)
    if not manifest.is_file():
        raise typer.BadParameter(f"{manifest} is not there")
    examples = read_examples(manifest, speaker or (), limit)
    if not examples:
        raise typer.BadParameter(f"{manifest} has no transcribed clip that is asked for")
    try:
        recogniser = load_recogniser(RecogniserConfig(model, device, threads=threads))
    except ModelError as error:
        console.print(f"error: {error}")
        raise typer.Exit(1) from error
    recogniser.warm_up()
    results = []
    for count in _steps(steps):

        def progress(items: Iterable[Example], count: int = count) -> Iterable[Example]:
            return track(
                items, f"{count} steps", total=len(examples), console=console, transient=True
            )

        result, heard = evaluate(recogniser, examples, count, spelled, progress)
        results.append(result)
        if texts:
            for example, text in zip(examples, heard, strict=True):
                console.print(f"{example.audio.name}: {example.text} | {text}", markup=False)
    if as_json:
        document = {"model": recogniser.info.name, "results": [asdict(r) for r in results]}
        json.dump(document, sys.stdout, indent=1)
        print()
    else:
        Console().print(_table(results))


__all__ = ["app", "main"]
