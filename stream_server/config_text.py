"""The configuration as text: a TOML file of what is in force, and the table of all options."""

from __future__ import annotations

import json

from stream_server.config import SECRET, Config, options


def render_toml(config: Config, *, show_secrets: bool = False) -> str:
    """Return ``config`` as a TOML file with the help as comments; keys are left out by default."""
    lines: list[str] = []
    section = ""
    for option in options():
        if option.section != section:
            section = option.section
            lines += ([""] if lines else []) + [f"[{section}]"]
        value = getattr(getattr(config, section), option.name)
        lines += [f"# {line}" for line in option.help.splitlines()]
        is_hidden = option.name in SECRET and value and not show_secrets
        lines.append(
            f"# {option.name} is set; not shown" if is_hidden else f"{option.name} = {_toml(value)}"
        )
    return "\n".join(lines) + "\n"


def render_markdown() -> str:
    """Return every option as a Markdown table, for the documentation."""
    rows = ["| flag | environment | TOML | default | allowed | what |", "|---|---|---|---|---|---|"]
    for option in options():
        help_text = " ".join(option.help.split()).replace("|", "\\|")
        rows.append(
            f"| `{option.flag}` | `{option.variable}` | `[{option.section}] {option.name}` "
            f"| `{_toml(option.default)}` | {option.allowed} | {help_text} |"
        )
    return "\n".join(rows) + "\n"


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # A JSON string is a TOML string, but for DEL.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case tuple():
            return "[" + ", ".join(_toml(part) for part in value) + "]"
        case _:
            return repr(value)


__all__ = ["render_markdown", "render_toml"]
