"""Configuration: frozen dataclasses, read once, validated with key and value in the message.

Each option is one field here and nowhere else: its flag on the command line (``--max-sessions``),
its environment variable (``DIFFSCRIBE_MAX_SESSIONS``) and its place in the TOML file
(``[limits] max_sessions``) follow from its name. Precedence: command line, environment, file,
default.

The help text of an option is the docstring under its field; ranges are checked when a section is
built, however it is built, so a wrong value cannot get further than here. This is the only file
that reads the environment.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import ipaddress
import itertools
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from stream_server.errors import ConfigError
from stream_server.ranges import Pattern, Range, Switch

PREFIX: Final = "DIFFSCRIBE_"
"""Of every environment variable of the server."""
FILE_VARIABLE: Final = "DIFFSCRIBE_CONFIG"
"""The environment variable that names the TOML file."""
_OF_OTHERS: Final = frozenset({"DIFFSCRIBE_URL", "DIFFSCRIBE_YOUTUBE_URL", "DIFFSCRIBE_ZOOM_URL"})
"""Variables with our prefix that the client reads; both may be set in one shell."""


_WEEK_MS: Final = 7 * 86_400_000
_ALLOWED: Final[Mapping[str, Range | Pattern | Switch]] = {
    "host": Pattern(r"\S+", "a host name or an address"),
    "port": Range(0, 65_535),
    "wyoming_port": Range(0, 65_535),
    "api_key": Pattern(r"[!-+\--~]+", "printable ASCII without spaces and commas"),
    "allow_anonymous": Switch(),
    "tls_cert": Pattern(r"(\S.*)?", "a PEM file"),
    "tls_key": Pattern(r"(\S.*)?", "a PEM file"),
    "tls_self_signed": Switch(),
    "allow_origin": Pattern(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", "SCHEME://HOST[:PORT], or *"),
    "ice_server": Pattern(
        r"(stuns?:[^\s@\"<>]+|turns?:([^:@\s]+:[^:@\s]+@)?[^\s@\"<>]+)",
        "stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT",
    ),
    "otel": Switch(),
    "log_level": Pattern("debug|info|warning|error", "debug, info, warning or error"),
    "keys_file": Pattern(r"(\S(.*\S)?)?", "a file, or empty: none"),
    "token_secret": Pattern(r"([!-~]{32,})?", "32 or more printable ASCII characters, or empty"),
    "max_key_sessions": Range(0, 100_000),
    "max_key_audio_s": Range(0, 100_000_000),
    "max_sessions": Range(1, 100_000),
    "max_message_bytes": Range(1_000, 2**26),
    "max_upload_bytes": Range(1_000, 2**34),
    "max_unprocessed_ms": Range(100, 600_000),
    "max_session_ms": Range(0, _WEEK_MS),
    "max_open_ms": Range(0, _WEEK_MS),
    "max_speed": Range(0, 1_000),
    "max_burst_ms": Range(1_000, _WEEK_MS),
    "idle_timeout_ms": Range(0, _WEEK_MS),
    "send_timeout_ms": Range(100, 600_000),
    "media_timeout_ms": Range(1_000, 600_000),
    "max_history": Range(10, 1_000_000),
    "drain_seconds": Range(0, 86_400),
    "vad_aggressiveness": Range(0, 3),
    "max_rows": Range(0, 4_096),
    "max_queued": Range(1, 1_000_000),
    "reserved_finals": Range(0, 1_000_000),
    "partial_deadline_ms": Range(1, 600_000),
    "busy_share": Range(0, 1),
    "model": Pattern(r"\S(.*\S)?", "embedded, fake, a folder, or a model's name on the hub"),
    "backbone": Pattern(r"(\S(.*\S)?)?", "a folder, a name on the hub, or empty: the adapter's"),
    "audio_encoder": Pattern(
        r"(\S(.*\S)?)?", "a folder, a name on the hub, or empty: the adapter's"
    ),
    "device": Pattern(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N"),
    "kernels": Pattern(r"auto|plain", "auto or plain"),
    "weights": Pattern(r"full|float8", "full or float8"),
    "conditioning_words": Range(0, 1_024),
    "steps": Range(1, 64),
    "partial_steps": Range(1, 64),
    "threads": Range(0, 1_024),
}
SECRET: Final = frozenset({"api_key", "ice_server", "token_secret"})
"""Options whose values are not shown."""
_TYPES: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list of texts",
}


def _check_section(section: str, values: Any) -> None:
    for each in fields(values):
        value = getattr(values, each.name)
        _check(f"{section}.{each.name}", each.name, type(each.default), value)


def _check(key: str, name: str, kind: type, value: object) -> None:
    """Raise ConfigError unless ``value`` is of the option's type and in its range."""
    allowed = _ALLOWED[name]
    shown = "***" if name in SECRET else value
    if not _is_a(kind, value):
        words = dict.fromkeys((_TYPES[kind], str(allowed)))
        raise ConfigError(key, shown, ", ".join(words))
    if not allowed(value):
        raise ConfigError(key, shown, str(allowed))


def _is_a(kind: type, value: object) -> bool:
    if kind is tuple:
        return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """Where the server listens and whom it lets in."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every IPv4 one of the machine, :: every one."""
    port: int = 8000
    """TCP port, for everything; 0 takes a free one."""
    api_key: tuple[str, ...] = ()
    """Keys that open the server, beside those of keys_file; none of either leaves it open."""
    log_level: str = "info"
    """debug, info, warning or error."""
    wyoming_port: int = 0
    """TCP port of the Wyoming protocol, 10300 by custom; 0 is none. It knows no keys."""
    allow_anonymous: bool = False
    """Let clients of other machines in without a key: to a server without keys, or by Wyoming."""
    otel: bool = False
    """Send traces and metrics by OpenTelemetry, to where its own OTEL_ variables say."""

    def __post_init__(self) -> None:
        _check_section("listen", self)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name; any other than this one may lead out
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class KeysConfig:
    """Whom the server lets in, and how much each may use."""

    keys_file: str = ""
    """TOML file with hashed keys, which ``stream-server keys add`` writes; read when it changes."""
    token_secret: str = ""
    """Signs short-lived tokens: servers with the same one take each other's; empty: by chance."""
    max_key_sessions: int = 0
    """Sessions and uploads of one key at once; 0 is no limit. The file may say other for a key."""
    max_key_audio_s: int = 0
    """Seconds of audio of one key a day (UTC); 0 is no limit. The file may say other for a key."""

    def __post_init__(self) -> None:
        _check_section("keys", self)


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What browsers need."""

    tls_cert: str = ""
    """PEM file with the certificate and those between it and its root; none serves plain HTTP."""
    tls_key: str = ""
    """PEM file with the certificate's key."""
    tls_self_signed: bool = False
    """Without tls_cert, serve HTTPS with a certificate made at the start; browsers warn of it."""
    allow_origin: tuple[str, ...] = ()
    """Web pages elsewhere that may use the server (CORS), as https://example.org; * is any."""
    ice_server: tuple[str, ...] = ()
    """STUN and TURN servers for WebRTC, as stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT."""

    def __post_init__(self) -> None:
        _check_section("web", self)
        if bool(self.tls_cert) != bool(self.tls_key):
            missing = "tls_key" if self.tls_cert else "tls_cert"
            raise ConfigError(f"web.{missing}", "", "a PEM file, as the other of the two is set")

    @property
    def has_tls(self) -> bool:
        """Whether HTTPS is served."""
        return bool(self.tls_cert) or self.tls_self_signed


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Bounds; over each of them the answer is a typed refusal."""

    max_sessions: int = 256
    """Live sessions at once."""
    max_message_bytes: int = 1_048_576
    """Bytes of one WebSocket message."""
    max_upload_bytes: int = 104_857_600
    """Bytes of one uploaded file."""
    max_unprocessed_ms: int = 10_000
    """Milliseconds of audio of a session that may wait; beyond it reading pauses."""
    max_session_ms: int = 0
    """Milliseconds of audio in one session; 0 is no limit."""
    max_open_ms: int = 0
    """Milliseconds that a session may be open, or a file may take to come; 0 is no limit."""
    max_speed: float = 0.0
    """Seconds of audio that a session may send in a second; 0 is any number."""
    max_burst_ms: int = 120_000
    """Milliseconds of audio ahead of max_speed, as clients send it after a break."""
    idle_timeout_ms: int = 60_000
    """Milliseconds without any message after which a session is closed; 0 is never."""
    send_timeout_ms: int = 20_000
    """Milliseconds that a client may take nothing of what it is sent before it is closed."""
    drain_seconds: float = 30.0
    """Seconds that running sessions get to finish after SIGTERM."""
    media_timeout_ms: int = 15_000
    """Milliseconds without audio after which a WebRTC session is taken for gone and ended."""
    max_history: int = 2_000
    """Events of a session that are kept for viewers who join late."""

    def __post_init__(self) -> None:
        _check_section("limits", self)


@dataclass(frozen=True, slots=True)
class SegmenterConfig:
    """Voice activity detection; endpointing itself is set per session."""

    vad_aggressiveness: int = 2
    """0 to 3 of WebRTC's detector; higher takes less for speech."""

    def __post_init__(self) -> None:
        _check_section("segmenter", self)


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Who is served next."""

    max_rows: int = 0
    """Utterances in one denoising step; 0 takes what the model advises."""
    max_queued: int = 512
    """Requests that may wait."""
    reserved_finals: int = 256
    """Further places that only finals may take."""
    partial_deadline_ms: int = 2_000
    """Milliseconds after which a partial that has not begun is dropped."""
    busy_share: float = 0.35
    """Of the model's time, what finals may take before new sessions are refused; 0 is no bound."""

    def __post_init__(self) -> None:
        _check_section("scheduler", self)


@dataclass(frozen=True, slots=True)
class RecogniserConfig:
    """Which model, where, how many steps."""

    model: str = "embedded"
    """``embedded``, ``fake``, a folder, or a model's name on the hub."""
    backbone: str = ""
    """Frozen decoder of a model that is an adapter: a folder, or a name on the hub."""
    audio_encoder: str = ""
    """Frozen encoder of a model that is an adapter: a folder, or a name on the hub."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    steps: int = 8
    """Denoising steps of a final; 1 to 64."""
    partial_steps: int = 3
    """Denoising steps of a partial; 1 to 64."""
    threads: int = 0
    """CPU threads of the model; 0 takes every core."""
    kernels: str = "auto"
    """auto: fused kernels and CUDA graphs where the GPU and the model can; plain: none."""
    weights: str = "full"
    """full: bfloat16 on a GPU, float32 elsewhere; float8: half as large, fused kernels only."""
    conditioning_words: int = 0
    """Likeliest words that a step tells the next one; 0 is all, others fused kernels only."""

    def __post_init__(self) -> None:
        _check_section("recogniser", self)

    @property
    def fused_only(self) -> str:
        """The option that is set and that only fused kernels can fulfil; empty for none."""
        if self.weights != "full":
            return f"--weights {self.weights}"
        return f"--conditioning-words {self.conditioning_words}" if self.conditioning_words else ""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    listen: ListenConfig = field(default_factory=ListenConfig)
    keys: KeysConfig = field(default_factory=KeysConfig)
    web: WebConfig = field(default_factory=WebConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    recogniser: RecogniserConfig = field(default_factory=RecogniserConfig)

    def __post_init__(self) -> None:
        listen = self.listen
        if listen.is_local or listen.allow_anonymous:
            return
        if not self.has_keys:
            raise ConfigError(
                "listen.host",
                listen.host,
                "other machines reach this address, so set a key (--api-key, --keys-file); or "
                "--allow-anonymous, if everyone may use the server",
            )
        if listen.wyoming_port:
            raise ConfigError(
                "listen.wyoming_port",
                listen.wyoming_port,
                f"other machines reach {listen.host} and Wyoming knows no keys, so leave it out; "
                "or --allow-anonymous, if everyone may use that port",
            )

    @property
    def has_keys(self) -> bool:
        """Whether a key is wanted; of a file without keys none is right."""
        return bool(self.listen.api_key or self.keys.keys_file)


# --- the list of options ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Option:
    """One option, under all of its names."""

    section: str
    """Table of the TOML file."""
    name: str
    """Key in that table."""
    kind: type
    """bool, int, float, str, or tuple for a list of texts."""
    default: Any
    """A value of that type."""
    help: str
    """What it is, with its unit."""
    allowed: str
    """What values it may have, in words."""

    @property
    def key(self) -> str:
        """``section.name``."""
        return f"{self.section}.{self.name}"

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()


def options() -> tuple[Option, ...]:
    """Return every option, in the order of the file."""
    found = []
    helps = _docstrings()
    for section in fields(Config):
        kind: Any = section.default_factory
        found += [
            Option(
                section=section.name,
                name=each.name,
                kind=type(each.default),
                default=each.default,
                help=helps.get((kind.__name__, each.name), ""),
                allowed=str(_ALLOWED[each.name]),
            )
            for each in fields(kind)
        ]
    return tuple(found)


def _docstrings() -> dict[tuple[str, str], str]:
    """Return the docstrings under the fields of this file's classes, by class and field."""
    module = inspect.getmodule(_docstrings)
    try:
        tree = ast.parse(inspect.getsource(module)) if module else ast.Module([], [])
    except OSError:  # Installed without sources: everything works, only --help says less.
        return {}
    found = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for before, after in itertools.pairwise(node.body):
            match before, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[node.name, name] = inspect.cleandoc(text).replace("``", "")
    return found


# --- loading ------------------------------------------------------------------------------------


def from_environment(
    overrides: Mapping[str, object] | None = None, file: Path | None = None
) -> Config:
    """Load the configuration of this process: :func:`load` with its environment."""
    return load(overrides or {}, os.environ, file)


def load(
    overrides: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None
) -> Config:
    """Return the configuration: overrides before environment before file before default.

    Args:
        overrides: by option name (``max_sessions``), as from the command line; None is not given.
        environ: variables; those that do not begin with ``DIFFSCRIBE_`` are passed over.
        file: TOML; none takes the one that ``DIFFSCRIBE_CONFIG`` names, if it names one.

    Raises:
        ConfigError: something is wrong; names the place, the value and what is allowed.
    """
    known = {option.name: option for option in options()}
    source = "--config"
    if file is None and environ.get(FILE_VARIABLE):
        source, file = FILE_VARIABLE, Path(environ[FILE_VARIABLE])
    values: dict[str, object] = {}
    if file is not None:
        values |= _read_file(source, file, known)
    values |= _read_environment(environ, known)
    values |= _read_overrides(overrides, known)
    sections: dict[str, Any] = {}
    for section in fields(Config):
        kind: Any = section.default_factory
        mine = {each.name: values[each.name] for each in fields(kind) if each.name in values}
        sections[section.name] = kind(**mine)
    return Config(**sections)


def _read_overrides(
    overrides: Mapping[str, object], known: Mapping[str, Option]
) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in overrides.items():
        if value is None:
            continue
        if name not in known:
            raise _unknown(name, value, known)
        option = known[name]
        values[name] = _take(option.flag, option, value, is_text=isinstance(value, str))
    return values


def _read_environment(environ: Mapping[str, str], known: Mapping[str, Option]) -> dict[str, object]:
    by_variable = {option.variable: option for option in known.values()}
    values: dict[str, object] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in (FILE_VARIABLE, *_OF_OTHERS):
            continue
        if variable not in by_variable:
            # The value stays out of the message: it may be a secret under a mistyped name.
            raise _unknown(variable, "***", (*by_variable, FILE_VARIABLE))
        option = by_variable[variable]
        values[option.name] = _take(variable, option, text, is_text=True)
    return values


def _read_file(source: str, file: Path, known: Mapping[str, Option]) -> dict[str, object]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(source, str(file), f"a file that can be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, str(file), f"a TOML file ({error})") from error
    by_key = {option.key: option for option in known.values()}
    tables = {option.section for option in known.values()}
    values: dict[str, object] = {}
    for section, table in document.items():
        if section not in tables:
            raise _unknown(section, "***", (*tables, *by_key))
        if not isinstance(table, dict):
            raise ConfigError(section, table, f"a table, [{section}]")
        for name, value in table.items():
            key = f"{section}.{name}"
            if key not in by_key:
                raise _unknown(key, "***", by_key)
            values[name] = _take(f"{file}: {key}", by_key[key], value, is_text=False)
    return values


def _unknown(key: str, value: object, known: Iterable[str]) -> ConfigError:
    def likeness(other: str) -> float:
        # A key without its table is compared with the keys without theirs.
        name = other if "." in key else other.rpartition(".")[2]
        return difflib.SequenceMatcher(a=key.lower(), b=name.lower()).ratio()

    nearest = max(sorted(known), key=likeness)
    return ConfigError(key, value, f"there is no such option; the nearest is {nearest}")


def _take(key: str, option: Option, value: object, *, is_text: bool) -> object:
    """Return ``value`` as the option's type, checked; ``key`` is its name where it came from."""
    if is_text and isinstance(value, str):
        parsed = _parse(option.kind, value)
    elif option.kind is tuple and isinstance(value, list):
        parsed = tuple(value)
    else:
        parsed = value
    _check(key, option.name, option.kind, parsed)
    return float(parsed) if option.kind is float and isinstance(parsed, int) else parsed


def _parse(kind: type, text: str) -> object:
    """Return ``text`` as ``kind``; as it is where it is none, and the check refuses it."""
    text = text.strip()
    if kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if kind is int and re.fullmatch(r"-?[0-9]+", text):
        return int(text)
    if kind is float and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        return float(text)
    return text


__all__ = [
    "FILE_VARIABLE",
    "PREFIX",
    "SECRET",
    "Config",
    "KeysConfig",
    "LimitsConfig",
    "ListenConfig",
    "Option",
    "RecogniserConfig",
    "SchedulerConfig",
    "SegmenterConfig",
    "WebConfig",
    "from_environment",
    "load",
    "options",
]
