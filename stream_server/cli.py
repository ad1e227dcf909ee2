"""The command ``stream-server``: flags to configuration, and what people see.

Every option of ``config.options()`` is a flag here without being named here. Heavy things (torch,
the web server) are imported by the commands that need them, so ``--help`` answers at once.

Exit codes: 0 done, 1 it could not be done, 2 it was asked for wrongly.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from stream_server.config import Config, Option, from_environment, options
from stream_server.config_text import render_toml
from stream_server.errors import ConfigError, DiffscribeError
from stream_server.key_commands import app as _keys_app
from stream_server.version import version

_PANELS = {
    "listen": "Listening",
    "keys": "Keys",
    "web": "Web",
    "limits": "Limits",
    "segmenter": "Segmenter",
    "scheduler": "Scheduler",
    "recogniser": "Recogniser",
}


# Typer brings its own copy of click, whose errors it does not export under their own names.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class Format(StrEnum):
    """How a transcript is written."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A sub-command that lives elsewhere and is imported when it is called."""

    module: str
    """Has the :class:`typer.Typer` named ``app``."""
    help: str
    extra: str
    """The extra that it needs."""


LAZY_COMMANDS = {
    "train": LazyCommand("stream_server.training.cli", "Train a model by a recipe.", "train"),
    "evaluate": LazyCommand("stream_server.evaluation.cli", "Measure accuracy and delay.", "eval"),
    "bench": LazyCommand("stream_server.evaluation.bench", "Measure speed.", "eval"),
}
"""Shown where their module is there."""


class _Commands(typer.core.TyperGroup):
    """The commands here and those elsewhere."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *(name for name in LAZY_COMMANDS if _is_there(name))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; of one elsewhere only its name and help, which is what lists show."""
        if cmd_name not in LAZY_COMMANDS or not _is_there(cmd_name):
            return super().get_command(ctx, cmd_name)
        listed = typer.Typer()
        listed.command(cmd_name, help=LAZY_COMMANDS[cmd_name].help)(_nothing)
        return typer.main.get_command(listed)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called; one elsewhere is imported now."""
        name, command, rest = super().resolve_command(ctx, args)
        if name not in LAZY_COMMANDS:
            return name, command, rest
        lazy = LAZY_COMMANDS[name]
        try:
            module = importlib.import_module(lazy.module)
        except ImportError as error:
            needs = f"pip install 'diffscribe[{lazy.extra}]'"
            raise DiffscribeError(f"{name} needs {error.name}: {needs}") from error
        return name, typer.main.get_command(module.app), rest


def _nothing() -> None:
    """Stand for a command elsewhere."""


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(LAZY_COMMANDS[name].module) is not None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Streaming transcription with a discrete-diffusion decoder.",
)
app.add_typer(_keys_app, name="keys")


def with_options(*sections: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of ``sections`` as flags, and ``--config``.

    The command takes a ``config`` in their place. Values are passed on as text: ``config`` parses
    them, so a wrong one is refused in the same words wherever it came from.
    """
    chosen = [option for option in options() if option.section in sections]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**arguments: Any) -> None:
            file = arguments.pop("config", None)
            given = {option.name: arguments.pop(option.name, None) for option in chosen}
            overrides = {name: _as_text(value) for name, value in given.items()}
            command(config=from_environment(overrides, file), **arguments)

        signature = inspect.signature(command, eval_str=True)
        own = [each for name, each in signature.parameters.items() if name != "config"]
        call.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, _config_parameter(), *map(_parameter, chosen)]
        )
        return call

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    kinds: dict[type, Any] = {tuple: list[str] | None, bool: bool | None}
    metavars: dict[type, str | None] = {tuple: "TEXT", bool: None}
    kind: Any = kinds.get(option.kind, str | None)
    default = ",".join(option.default) if isinstance(option.default, tuple) else option.default
    shown = f" ({option.allowed}{f'; default {default}' if default != '' else ''})"
    info = typer.Option(
        option.flag,
        help=option.help + shown,
        metavar=metavars.get(option.kind, option.kind.__name__.upper()),
        rich_help_panel=_PANELS.get(option.section, option.section),
        show_default=False,
    )
    annotation = Annotated[kind, info]
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _config_parameter() -> inspect.Parameter:
    info = typer.Option("--config", help="TOML file with options.", show_default=False)
    annotation = Annotated[Path | None, info]
    return inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _as_text(value: object) -> object:
    """Return a flag's value as ``config.load`` takes it; a flag that was not given is none."""
    return (tuple(value) or None) if isinstance(value, list | tuple) else value


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"diffscribe {version()}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Streaming transcription with a discrete-diffusion decoder."""


@app.command()
@with_options("listen", "keys", "web", "limits", "segmenter", "scheduler", "recogniser")
def serve(config: Config) -> None:
    """Serve until interrupted."""
    from stream_server.logs import configure_logging
    from stream_server.progress import Progress
    from stream_server.server import Ready, build, load_recogniser

    configure_logging(config.listen.log_level)
    progress = Progress(f"loading model {config.recogniser.model}")

    def announce(ready: Ready) -> None:
        progress.stop()
        loaded = f"model {ready.model}, loaded in {ready.load_seconds:.1f} s"
        typer.echo(f"diffscribe {version()} ready on {ready.url} ({loaded})")

    with progress:
        build(config, functools.partial(load_recogniser, report=progress.report)).run(announce)
    _leave()


def _leave() -> NoReturn:
    """End the process at once; everybody was served or told, and every file is closed.

    The interpreter would free the model object by object: more than a second of processor time,
    ten on a busy machine, which are no part of the time that a server is given to end. And a thread
    that is inside a long step of the model may not run into what is being freed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@app.command()
@with_options("segmenter", "scheduler", "recogniser")
def transcribe(
    file: Annotated[Path, typer.Argument(help="Any file that FFmpeg reads.")],
    format: Annotated[Format, typer.Option(help="How to write the transcript.")] = Format.TEXT,
    language: Annotated[str | None, typer.Option(help="ISO 639-1 code.")] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Print the canvas at each denoising step.")
    ] = False,
    *,
    config: Config,
) -> None:
    """Transcribe one file here, without a server."""
    from stream_server.offline import OfflineJob, transcribe_offline
    from stream_server.progress import Progress

    if not file.is_file():
        raise ConfigError("FILE", str(file), "a file that is there")
    job = OfflineJob(file, format.value, language, typer.echo if trace else None)
    with Progress(f"loading model {config.recogniser.model}") as progress:
        asyncio.run(transcribe_offline(job, config, _write, progress.stop))


@app.command()
@with_options("listen", "keys", "web", "limits", "segmenter", "scheduler", "recogniser")
def config(config: Config) -> None:
    """Print the effective configuration as TOML; keys are left out."""
    _write(render_toml(config))


def _write(text: str) -> None:
    """Write ``text`` at once, so that a reader of a pipe sees it come."""
    sys.stdout.write(text)
    sys.stdout.flush()


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the command line and exit."""
    given = None if arguments is None else list(arguments)
    try:
        raise SystemExit(app(args=given, prog_name="stream-server", standalone_mode=False) or 0)
    except _UsageError as error:
        text = getattr(error, "format_message", error.__str__)()
        _fail(f"{text} (stream-server --help shows what there is)", 2)
    except typer.Abort:
        _fail("interrupted", 130)
    except ConfigError as error:
        _fail(str(error), 2)
    except DiffscribeError as error:
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stream_"):
            raise  # a mistake of ours, with its traceback
        needs = "pip install 'diffscribe[server]'"
        _fail(f"{error.name} is not installed, which the server needs: {needs}", 1)
    except BrokenPipeError:  # as in ``stream-server transcribe ... | head``
        sys.stderr.close()
        raise SystemExit(1) from None


def _fail(message: str, code: int) -> None:
    typer.echo(f"stream-server: {' '.join(message.split())}", err=True)
    raise SystemExit(code)


__all__ = ["LAZY_COMMANDS", "Format", "LazyCommand", "app", "main", "with_options"]
