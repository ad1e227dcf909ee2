"""The configuration as TOML explains itself and hides keys; as Markdown it has every option."""

from __future__ import annotations

import tomllib
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stream_server import config_text as module
from stream_server.config import Config, KeysConfig, ListenConfig, RecogniserConfig, options
from stream_server.config_text import render_markdown, render_toml


def test_toml_explains_and_hides_keys() -> None:
    secret = "correct horse battery staple".replace(" ", "-") * 2
    keys = KeysConfig(token_secret=secret)
    config = replace(Config(), listen=ListenConfig(api_key=("hunter2",)), keys=keys)
    text = render_toml(config)
    assert "hunter2" not in text
    assert secret not in text
    assert secret in render_toml(config, show_secrets=True)
    assert "# api_key is set; not shown" in text
    assert "# Live sessions at once.\nmax_sessions = 256\n" in text
    assert tomllib.loads(text)["limits"]["drain_seconds"] == 30.0
    assert tomllib.loads(render_toml(Config()))["listen"]["api_key"] == []


@given(model=st.from_regex(r"\A\S([^\n\r]*\S)?\Z").filter(lambda text: text.isprintable()))
def test_toml_quotes_any_text(model: str) -> None:
    config = replace(Config(), recogniser=RecogniserConfig(model=model))
    assert tomllib.loads(render_toml(config))["recogniser"]["model"] == model


def test_toml_booleans_and_odd_text() -> None:
    assert module._toml(True) == "true"
    assert tomllib.loads(f"x = {module._toml(chr(127) + chr(34) + chr(92) + chr(7))}") == {
        "x": '\x7f"\\\x07'
    }


def test_markdown_has_a_row_for_each_option() -> None:
    lines = render_markdown().splitlines()
    assert len(lines) == 2 + len(options())
    assert {line.count(" | ") for line in lines[2:]} == {5}
    assert (
        "| `--max-sessions` | `DIFFSCRIBE_MAX_SESSIONS` | `[limits] max_sessions` | `256` "
        "| 1 to 100000 | Live sessions at once. |"
    ) in lines
