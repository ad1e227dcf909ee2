"""``stream-server evaluate``: accuracy, speed and delay of a model on recordings.

Results go to standard output, as tables or as JSON; everything else goes to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from stream_server.config import RecogniserConfig
from stream_server.errors import ConfigError
from stream_server.evaluation.accuracy import Heard
from stream_server.evaluation.manifest import Selection
from stream_server.evaluation.picture import plot_steps
from stream_server.evaluation.report import encode_json, tables
from stream_server.evaluation.run import PACES, Plan, measure, parse_steps
from stream_server.evaluation.subject import load_subject, parse_guard
from stream_server.training.recipe import read_recipe

app = typer.Typer(help="Measure accuracy, speed and delay.", no_args_is_help=True)

_WIDTH = 110
"""Columns of a table that goes into a file."""
_MODEL, _CLIPS, _OUTPUT = "Model", "Clips", "Output"


@app.command()
def main(
    manifest: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON lines: audio, text, language, speaker, duration; repeatable.",
            rich_help_panel=_CLIPS,
        ),
    ] = None,
    speaker: Annotated[
        list[str] | None,
        typer.Option(help="Only this speaker; repeatable.", rich_help_panel=_CLIPS),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="A recipe: only clips that training by it left out.", rich_help_panel=_CLIPS
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            help="Only so many of a set, spread evenly; 0: all.", rich_help_panel=_CLIPS, min=0
        ),
    ] = 0,
    no_speech: Annotated[
        bool,
        typer.Option(
            help="Stream the clips in which nobody speaks: no word should come.",
            rich_help_panel=_CLIPS,
        ),
    ] = False,
    silence: Annotated[
        float,
        typer.Option(help="Stream so many seconds of silence too.", rich_help_panel=_CLIPS, min=0),
    ] = 0.0,
    recogniser: Annotated[
        str,
        typer.Option(
            help="diffusion, or a reference: whisper, pocketsphinx.", rich_help_panel=_MODEL
        ),
    ] = "diffusion",
    model: Annotated[
        str,
        typer.Option(
            help="As for serve; of whisper, a folder or a hub name.", rich_help_panel=_MODEL
        ),
    ] = "embedded",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.", rich_help_panel=_MODEL)] = "auto",
    threads: Annotated[
        int, typer.Option(help="CPU threads; 0: every core.", rich_help_panel=_MODEL, min=0)
    ] = 0,
    steps: Annotated[
        str, typer.Option(help="Denoising steps, as 1,2,4,8.", rich_help_panel=_MODEL)
    ] = "8",
    start: Annotated[
        str | None,
        typer.Option(
            help="What canvases start from: noise or ctc; else as the checkpoint says.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option(
            help="Drop words and texts with less support by the audio than these, as 0.1,0.3; 0:"
            " nothing; else as the checkpoint says.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    float8: Annotated[
        bool,
        typer.Option(
            "--float8",
            help="Round the layers as float8 weights on a GPU are: slow, to see what it costs.",
            rich_help_panel=_MODEL,
        ),
    ] = False,
    batch: Annotated[
        int, typer.Option(help="Clips decoded together.", rich_help_panel=_MODEL, min=1)
    ] = 1,
    streaming: Annotated[
        bool,
        typer.Option(
            help="Stream the clips through the session: delays and stability.",
            rich_help_panel=_MODEL,
        ),
    ] = False,
    pace: Annotated[
        str,
        typer.Option(
            help="Of streams: virtual (nobody waits) or realtime.", rich_help_panel=_MODEL
        ),
    ] = "virtual",
    spelled: Annotated[
        bool, typer.Option(help="Keep number words as words.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="JSON on standard output.", rich_help_panel=_OUTPUT),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw error and speed against steps.", rich_help_panel=_OUTPUT),
    ] = None,
    texts: Annotated[
        bool, typer.Option(help="Also print what was heard.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Recognise every clip of the manifests and score what was heard."""
    if pace not in PACES:
        raise ConfigError("pace", pace, " or ".join(PACES))
    plan = Plan(
        manifests=tuple(manifest or ()),
        selection=Selection(
            speakers=tuple(speaker or ()),
            limit=limit,
            recipe=read_recipe(held_out) if held_out else None,
            silent=no_speech,
            untranscribed=streaming,
        ),
        steps=parse_steps(steps),
        pace=pace if streaming or no_speech or silence else None,
        batch=batch,
        silence=silence,
        spelled=spelled,
    )
    console = Console(stderr=True)
    subject = load_subject(
        RecogniserConfig(model, device, threads=threads),
        recogniser,
        start,
        None if guard is None else parse_guard(guard),
        is_rounded=float8,
    )
    subject.recogniser.warm_up()
    tell = partial(_print_texts, console) if texts else _be_quiet
    results = measure(plan, subject, partial(_show, console), tell)
    if as_json:
        typer.echo(encode_json(subject.recogniser.info.name, results))
    else:
        output = Console(width=None if sys.stdout.isatty() else _WIDTH)
        for table in tables(results):
            output.print(table)
    if plot is not None:
        plot_steps(subject.recogniser.info.name, results, plot)


def _show(console: Console, what: str, total: int) -> Callable[[Iterable[Any]], Iterable[Any]]:
    def progress(items: Iterable[Any]) -> Iterable[Any]:
        return track(
            items,
            what,
            total=total,
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    return progress


def _print_texts(console: Console, heard: Heard) -> None:
    name = heard.example.audio.name if heard.example.audio else "silence"
    console.print(
        f"{name}: {heard.example.text or '-'} | {heard.text}", markup=False, soft_wrap=True
    )


def _be_quiet(heard: Heard) -> None:
    """Print nothing."""


__all__ = ["app", "main"]
