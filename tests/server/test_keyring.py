"""A file of keys: only hashes in it, only its owner reads it, and what is wrong is told."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from stream_server.errors import ConfigError
from stream_server.keyring import (
    ANYONE,
    Key,
    digest,
    make_key,
    new_secret,
    read_keys,
    remove_key,
    write_keys,
)

HASH = digest("sesame").hex()


def test_a_key_is_made_kept_as_a_hash_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    first = make_key(file, "stage", 4, 3600)
    second = make_key(file, "a.b-c_D")
    assert first not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_keys(file) == (
        Key("stage", digest(first), 4, 3600),
        Key("a.b-c_D", digest(second)),
    )
    remove_key(file, "stage")
    assert [key.name for key in read_keys(file)] == ["a.b-c_D"]
    assert [path.name for path in tmp_path.iterdir()] == ["keys.toml"]


def test_keys_are_long_and_differ() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(secret) for secret in made} == {47}  # 256 bits in base64, and the prefix


def test_a_name_is_taken_once_and_there_when_it_goes(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    make_key(file, "stage")
    before = file.read_text()
    with pytest.raises(ConfigError, match="not taken"):
        make_key(file, "stage")
    with pytest.raises(ConfigError, match="A-Z"):
        make_key(file, "no spaces")
    with pytest.raises(ConfigError, match="a name in the file"):
        remove_key(file, "other")
    assert file.read_text() == before


def test_an_empty_file_holds_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    write_keys(file, [])
    assert read_keys(file) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[keys.a\n", "a TOML file"),
        ("[other.a]\n", "nothing else"),
        ("keys = 1\n", "nothing else"),
        ("[keys.a]\n", "64 digits"),
        ("[keys.a]\nsha256 = 'sesame'\n", "64 digits"),
        (f"[keys.a]\nsha256 = '{HASH.upper()}'\n", "64 digits"),
        ("keys.a = 1\n", "a table"),
        (f"[keys.a]\nsha256 = '{HASH}'\nmax_session = 1\n", "a table of"),
        (f"[keys.a]\nsha256 = '{HASH}'\nmax_sessions = -1\n", "max_sessions is"),
        (f"[keys.a]\nsha256 = '{HASH}'\nmax_audio_s = true\n", "max_audio_s is"),
        (f"[keys.a]\nsha256 = '{HASH}'\nmax_audio_s = 1.5\n", "max_audio_s is"),
        (f"[keys.'a b']\nsha256 = '{HASH}'\n", "a name has"),
        (f"[keys.a]\nsha256 = '{HASH}'\n[keys.b]\nsha256 = '{HASH}'\n", "the same key"),
    ],
)
def test_a_wrong_file_is_told_without_a_hash(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_keys(file)
    assert caught.value.key == "keys.keys_file"
    assert HASH not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can be read"):
        read_keys(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="can be written"):
        write_keys(tmp_path / "absent" / "keys.toml", [])


def test_plain_keys_have_one_owner_and_named_ones_their_own() -> None:
    assert Key("api-key:1").owner == Key("api-key:2").owner == "api-key"
    assert Key("stage").owner == "stage"
    assert ANYONE.owner == ""
