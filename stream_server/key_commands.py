"""``stream-server keys``: add, list and remove the keys of a file.

A running server reads the file again by itself, at the latest a second later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stream_server.config import from_environment
from stream_server.errors import ConfigError
from stream_server.keyring import make_key, read_keys, remove_key

app = typer.Typer(
    no_args_is_help=True, help="Add, list and remove the keys of --keys-file.", add_completion=False
)

_Name = Annotated[str, typer.Argument(help="Of the key's holder.")]
_File = Annotated[
    Path | None,
    typer.Option("--keys-file", help="Else DIFFSCRIBE_KEYS_FILE, or that of --config."),
]
_Config = Annotated[Path | None, typer.Option("--config", help="TOML file with options.")]


def _find(file: Path | None, config: Path | None) -> Path:
    if file is not None:
        return file
    name = from_environment({}, config).keys.keys_file
    if not name:
        raise ConfigError("keys.keys_file", "", "a file; say which: --keys-file keys.toml")
    return Path(name)


@app.command()
def add(
    name: _Name,
    max_sessions: Annotated[
        int | None, typer.Option(min=0, help="Sessions at once, in place of --max-key-sessions.")
    ] = None,
    max_audio_s: Annotated[
        int | None,
        typer.Option(min=0, help="Seconds of audio a day, in place of --max-key-audio-s."),
    ] = None,
    keys_file: _File = None,
    config: _Config = None,
) -> None:
    """Make a key, keep its hash, and print the key: nobody can show it again."""
    typer.echo(make_key(_find(keys_file, config), name, max_sessions, max_audio_s))


@app.command(name="list")
def show(keys_file: _File = None, config: _Config = None) -> None:
    """List the names of the keys and their limits."""
    for key in read_keys(_find(keys_file, config)):
        limits = {"max_sessions": key.max_sessions, "max_audio_s": key.max_audio_s}
        typer.echo(" ".join([key.name, *(f"{k}={v}" for k, v in limits.items() if v is not None)]))


@app.command()
def remove(name: _Name, keys_file: _File = None, config: _Config = None) -> None:
    """Take a key out: it opens nothing any more, and its sessions are closed."""
    remove_key(_find(keys_file, config), name)


__all__ = ["add", "app", "remove", "show"]
