"""Keys with names, kept as hashes in a file: how they are made, written and read.

The file is TOML, one table for each key::

    [keys.stage]
    sha256 = "9f86d0..."
    max_sessions = 4
    max_audio_s = 36000

A key is 256 random bits, so a plain SHA-256 keeps it: there is nothing to guess that a slow hash
would slow down (NIST SP 800-63B, 5.1.2.2, on secrets of 112 bits and more), and a slow one
on every request would be a way to stop the server. Who reads the file gets in nowhere with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stream_server.errors import ConfigError

_PREFIX = "dsk_"
"""So that scanners for leaked keys can find them."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LIMITS = ("max_sessions", "max_audio_s")
_MOST = 10**9
_HEAD = "# Hashed keys of a diffscribe server. `stream-server keys` adds, lists and removes them.\n"


@dataclass(frozen=True, slots=True)
class Key:
    """A key, or rather what is known of it."""

    name: str
    """Of its holder; empty for clients that need no key, ``api-key:1`` and so on for plain keys."""
    digest: bytes = field(default=b"", repr=False)
    max_sessions: int | None = None
    """At once; 0 is no limit, none is what the server says for all."""
    max_audio_s: int | None = None
    """Seconds of audio a day; 0 is no limit, none is what the server says for all."""

    @property
    def owner(self) -> str:
        """Whose the names of its sessions are: those of plain keys are one person's."""
        return self.name.partition(":")[0]


ANYONE = Key("")
"""Clients that need no key."""


def digest(secret: str) -> bytes:
    """Return what is kept of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def new_secret() -> str:
    """Return a new key: 256 bits by chance."""
    return _PREFIX + secrets.token_urlsafe(32)


def read_keys(file: Path) -> tuple[Key, ...]:
    """Return the keys of a file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; says what and shows no hash.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(file, f"a file that can be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise _wrong(file, f"a TOML file ({error})") from error
    tables = document.pop("keys", {})
    if document or not isinstance(tables, dict):
        raise _wrong(file, "a file of tables [keys.NAME] and nothing else")
    keys = tuple(_read_key(file, name, table) for name, table in tables.items())
    if len({key.digest for key in keys}) < len(keys):
        raise _wrong(file, "a file in which no two names have the same key")
    return keys


def _read_key(file: Path, name: str, table: Any) -> Key:
    place = f"[keys.{name[:80]}]"
    if not _NAME.fullmatch(name):
        raise _wrong(file, f"{place}: a name has 1 to 64 of A-Z a-z 0-9 _ . -")
    if not isinstance(table, dict) or not set(table) <= {"sha256", *_LIMITS}:
        raise _wrong(file, f"{place}: a table of sha256 and maybe {', '.join(_LIMITS)}")
    found = table.get("sha256")
    if not isinstance(found, str) or not _SHA256.fullmatch(found):
        raise _wrong(file, f"{place}: sha256 has 64 digits of 0-9 a-f")
    for limit in _LIMITS:
        value = table.get(limit, 0)
        if type(value) is not int or not 0 <= value <= _MOST:
            raise _wrong(file, f"{place}: {limit} is a whole number from 0 to {_MOST}")
    return Key(name, bytes.fromhex(found), *(table.get(limit) for limit in _LIMITS))


def _wrong(file: Path, allowed: str) -> ConfigError:
    return ConfigError("keys.keys_file", str(file), allowed)


def write_keys(file: Path, keys: Iterable[Key]) -> None:
    """Write the keys to a file that only its owner reads, in one step.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as writer:
                writer.write("\n".join([_HEAD, *map(_render, keys)]))
            Path(name).replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise _wrong(file, f"a file that can be written ({error})") from error


def _render(key: Key) -> str:
    limits = {limit: getattr(key, limit) for limit in _LIMITS}
    lines = [f'[keys."{key.name}"]', f'sha256 = "{key.digest.hex()}"']
    lines += [f"{limit} = {value}" for limit, value in limits.items() if value is not None]
    return "\n".join(lines) + "\n"


def make_key(
    file: Path, name: str, max_sessions: int | None = None, max_audio_s: int | None = None
) -> str:
    """Add a key to a file, which is made if it is not there, and return the key itself.

    Args:
        file: of keys.
        name: of the new one.
        max_sessions: at once; 0 is no limit, none is what the server says for all.
        max_audio_s: seconds of audio a day; likewise.

    Raises:
        ConfigError: there is such a name, or it is none; or the file is wrong.
    """
    keys = read_keys(file) if file.exists() else ()
    if not _NAME.fullmatch(name):
        raise ConfigError("NAME", name, "1 to 64 of A-Z a-z 0-9 _ . -")
    if any(key.name == name for key in keys):
        raise ConfigError("NAME", name, "a name that is not taken; remove that key first")
    secret = new_secret()
    write_keys(file, [*keys, Key(name, digest(secret), max_sessions, max_audio_s)])
    return secret


def remove_key(file: Path, name: str) -> None:
    """Take a key out of a file.

    Raises:
        ConfigError: there is no such name, or the file is wrong.
    """
    keys = read_keys(file)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        raise ConfigError("NAME", name, "a name in the file; stream-server keys list shows them")
    write_keys(file, left)


__all__ = [
    "ANYONE",
    "Key",
    "digest",
    "make_key",
    "new_secret",
    "read_keys",
    "remove_key",
    "write_keys",
]
