"""Options: one declaration, three names, four sources, and errors that help."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server import config as module
from stream_server.config import (
    Config,
    KeysConfig,
    LimitsConfig,
    ListenConfig,
    Option,
    RecogniserConfig,
    SchedulerConfig,
    SegmenterConfig,
    WebConfig,
    from_environment,
    load,
    options,
)
from stream_server.config_text import render_toml
from stream_server.errors import ConfigError

OPTIONS = {option.name: option for option in options()}


def write(folder: Path, text: str) -> Path:
    file = folder / "server.toml"
    file.write_text(text, encoding="utf-8")
    return file


# --- the list ---------------------------------------------------------------------------------


def test_every_field_is_an_option_and_names_are_unique() -> None:
    declared = [
        (section.name, each.name)
        for section in fields(Config)
        for each in fields(section.default_factory)  # type: ignore[arg-type]
    ]
    assert [(option.section, option.name) for option in options()] == declared
    assert len({option.name for option in options()}) == len(declared)


@pytest.mark.parametrize("option", options(), ids=lambda option: option.key)
def test_every_option_has_help_and_a_default_that_is_allowed(option: Option) -> None:
    assert option.help.endswith(".")
    assert "`" not in option.help
    assert option.allowed
    assert type(option.default) is option.kind


def test_an_options_names() -> None:
    option = OPTIONS["max_sessions"]
    assert option.flag == "--max-sessions"
    assert option.variable == "DIFFSCRIBE_MAX_SESSIONS"
    assert option.key == "limits.max_sessions"
    assert option.help == "Live sessions at once."
    assert (option.kind, option.default) == (int, 256)


def test_without_sources_only_the_help_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_source(_: object) -> str:
        raise OSError("source code not available")

    monkeypatch.setattr(module.inspect, "getsource", no_source)
    assert {option.name for option in options()} == OPTIONS.keys()
    assert all(option.help == "" for option in options())


# --- ranges -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (ListenConfig, "port", 65_536),
        (ListenConfig, "port", -1),
        (ListenConfig, "port", "8000"),
        (ListenConfig, "port", True),
        (ListenConfig, "port", 80.0),
        (ListenConfig, "host", ""),
        (ListenConfig, "host", "a b"),
        (ListenConfig, "log_level", "loud"),
        (ListenConfig, "log_level", "DEBUG"),
        (LimitsConfig, "max_sessions", 0),
        (LimitsConfig, "max_message_bytes", 0),
        (LimitsConfig, "idle_timeout_ms", -1),
        (LimitsConfig, "drain_seconds", float("nan")),
        (LimitsConfig, "drain_seconds", float("inf")),
        (LimitsConfig, "drain_seconds", -0.1),
        (SegmenterConfig, "vad_aggressiveness", 4),
        (SchedulerConfig, "max_rows", -1),
        (SchedulerConfig, "max_queued", 0),
        (SchedulerConfig, "partial_deadline_ms", 0),
        (RecogniserConfig, "steps", 0),
        (RecogniserConfig, "steps", 65),
        (RecogniserConfig, "device", "gpu"),
        (RecogniserConfig, "device", "cuda:"),
        (RecogniserConfig, "kernels", "fast"),
        (RecogniserConfig, "weights", "int4"),
        (RecogniserConfig, "conditioning_words", -1),
        (RecogniserConfig, "model", " "),
    ],
)
def test_what_is_out_of_range_names_key_value_and_range(
    kind: type[ListenConfig], name: str, value: object
) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**{name: value})  # type: ignore[arg-type]
    assert caught.value.key == f"{OPTIONS[name].section}.{name}"
    assert caught.value.value is value
    assert OPTIONS[name].allowed in caught.value.allowed


def test_ends_of_ranges_are_allowed() -> None:
    ListenConfig(port=0)
    ListenConfig(port=65_535, host="::1", log_level="debug")
    RecogniserConfig(steps=1, partial_steps=64, device="cuda:3", model="google/some model")
    LimitsConfig(drain_seconds=0)


@pytest.mark.parametrize("keys", [("",), ("with space",), ("a,b",), ("ok", "schlüssel"), ["list"]])
def test_bad_api_keys_are_refused_and_never_shown(keys: object) -> None:
    with pytest.raises(ConfigError) as caught:
        ListenConfig(api_key=keys)  # type: ignore[arg-type]
    assert caught.value.value == "***"


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("localhost.example.org", False),
    ],
)
def test_what_other_machines_reach_wants_a_key_or_a_word(host: str, is_local: bool) -> None:
    assert ListenConfig(host).is_local is is_local
    if is_local:
        Config(ListenConfig(host, wyoming_port=10300))
        return
    for listen, keys, named in (
        (ListenConfig(host), KeysConfig(), "listen.host"),
        (ListenConfig(host, api_key=("k",), wyoming_port=9), KeysConfig(), "listen.wyoming_port"),
        (ListenConfig(host, wyoming_port=9), KeysConfig("a.toml"), "listen.wyoming_port"),
    ):
        with pytest.raises(ConfigError, match="--allow-anonymous") as caught:
            Config(listen, keys)
        assert caught.value.key == named
        Config(replace(listen, allow_anonymous=True), keys)
    Config(ListenConfig(host, api_key=("k",)))
    Config(ListenConfig(host), KeysConfig("a.toml"))


# --- sources ----------------------------------------------------------------------------------


def test_nothing_given_is_the_default() -> None:
    assert load({}, {}) == Config()


def test_precedence(tmp_path: Path) -> None:
    file = write(tmp_path, "[listen]\nport = 1\nhost = 'file'\nlog_level = 'error'\n")
    environ = {"DIFFSCRIBE_PORT": "2", "DIFFSCRIBE_HOST": "environment"}
    overrides = {"port": 3, "host": None, "allow_anonymous": True}
    listen = load(overrides, environ, file).listen
    assert (listen.port, listen.host, listen.log_level) == (3, "environment", "error")
    environ["DIFFSCRIBE_ALLOW_ANONYMOUS"] = "true"
    assert load({}, environ, file).listen.port == 2
    assert load({"allow_anonymous": True}, {}, file).listen.port == 1


def test_every_option_by_every_way(tmp_path: Path) -> None:
    wanted = Config(
        ListenConfig("0.0.0.0", 81, ("k1", "k2"), "warning", 10300, True, True),
        KeysConfig("keys.toml", "s" * 32, 2, 3600),
        WebConfig("c.pem", "k.pem", True, ("https://a.example",), ("stun:b.example",)),
        LimitsConfig(
            1, 2_000, 3_000, 4_000, 5_000, 5_500, 1.5, 5_600, 6_000, 6_500, 7.5, 8_000, 9_000
        ),
        SegmenterConfig(3),
        SchedulerConfig(4, 5, 6, 7, 0.8),
        RecogniserConfig("fake", "a/backbone", "an/encoder", "cpu", 9, 2, 1, "plain", "float8", 32),
    )
    values = {
        option.name: getattr(getattr(wanted, option.section), option.name) for option in options()
    }
    assert all(values[option.name] != option.default for option in options())
    texts = {
        OPTIONS[name].variable: ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
    }
    assert load(values, {}) == wanted
    assert load({}, texts) == wanted
    file = write(tmp_path, render_toml(wanted, show_secrets=True))
    assert load({}, {}, file) == wanted
    assert load({}, {"DIFFSCRIBE_CONFIG": str(file)}) == wanted


def test_text_on_the_command_line_is_parsed_as_in_the_environment() -> None:
    config = load({"port": "81", "api_key": "a,b", "drain_seconds": "2"}, {})
    assert config.listen == ListenConfig(port=81, api_key=("a", "b"))
    assert type(config.limits.drain_seconds) is float
    assert load({"api_key": ["a", "b"]}, {}).listen.api_key == ("a", "b")


def test_lists_in_the_environment() -> None:
    def keys(text: str) -> tuple[str, ...]:
        return load({}, {"DIFFSCRIBE_API_KEY": text}).listen.api_key

    assert keys("one") == ("one",)
    assert keys(" one, two ,") == ("one", "two")
    assert keys("") == ()


def test_an_explicit_file_wins_over_the_variable(tmp_path: Path) -> None:
    file = write(tmp_path, "[listen]\nport = 1\n")
    assert load({}, {"DIFFSCRIBE_CONFIG": "absent.toml"}, file).listen.port == 1
    assert load({}, {"DIFFSCRIBE_CONFIG": ""}) == Config()


def test_from_environment_reads_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFSCRIBE_PORT", "4321")
    assert from_environment().listen.port == 4321
    assert from_environment({"port": 5}).listen.port == 5


def test_other_variables_are_passed_over() -> None:
    assert load({}, {"PORT": "x", "HOME": "/", "XDIFFSCRIBE_PORT": "x"}) == Config()
    # The client's, which may be set in the same shell.
    assert load({}, {"DIFFSCRIBE_URL": "ws://elsewhere/v1/stream"}) == Config()


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DIFFSCRIBE_PORT", "80x"),
        ("DIFFSCRIBE_PORT", "8e3"),
        ("DIFFSCRIBE_PORT", "8_000"),
        ("DIFFSCRIBE_PORT", "80.0"),
        ("DIFFSCRIBE_PORT", ""),
        ("DIFFSCRIBE_PORT", "٣"),
        ("DIFFSCRIBE_PORT", "true"),
        ("DIFFSCRIBE_PORT", "99999"),
        ("DIFFSCRIBE_DRAIN_SECONDS", "nan"),
        ("DIFFSCRIBE_DRAIN_SECONDS", "inf"),
        ("DIFFSCRIBE_DRAIN_SECONDS", "1,5"),
        ("DIFFSCRIBE_LOG_LEVEL", "loud"),
        ("DIFFSCRIBE_DEVICE", "tpu"),
    ],
)
def test_a_wrong_value_names_the_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, {variable: text})
    assert caught.value.key == variable
    assert str(caught.value.value) == text
    name = variable.removeprefix("DIFFSCRIBE_").lower()
    assert OPTIONS[name].allowed in str(caught.value)


def test_a_wrong_value_names_the_flag() -> None:
    with pytest.raises(ConfigError, match=r"^--steps=65 is not valid: 1 to 64$"):
        load({"steps": 65}, {})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[listen]\nport = '80'\n", "listen.port"),
        ("[listen]\nport = true\n", "listen.port"),
        ("[listen]\nport = 80.0\n", "listen.port"),
        ("[listen]\napi_key = 'one'\n", "listen.api_key"),
        ("[listen]\napi_key = ['one', 2]\n", "listen.api_key"),
        ("[listen.port]\nx = 1\n", "listen.port"),
    ],
)
def test_a_wrong_value_names_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load({}, {}, file)
    assert caught.value.key == f"{file}: {key}"


def test_a_whole_number_in_the_file_may_be_a_float_option(tmp_path: Path) -> None:
    seconds = load({}, {}, write(tmp_path, "[limits]\ndrain_seconds = 5\n")).limits.drain_seconds
    assert (seconds, type(seconds)) == (5.0, float)


@pytest.mark.parametrize(
    ("environ", "nearest"),
    [
        ({"DIFFSCRIBE_PRT": "1"}, "DIFFSCRIBE_PORT"),
        ({"DIFFSCRIBE_APIKEY": "secret"}, "DIFFSCRIBE_API_KEY"),
        ({"DIFFSCRIBE_CONFIGURATION": "x"}, "DIFFSCRIBE_CONFIG"),
        ({"DIFFSCRIBE_port": "1"}, "DIFFSCRIBE_PORT"),
    ],
)
def test_unknown_variables_name_the_nearest_and_show_no_value(
    environ: dict[str, str], nearest: str
) -> None:
    with pytest.raises(ConfigError, match=f"the nearest is {nearest}$") as caught:
        load({}, environ)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("[listen]\nprt = 1\n", "listen.port"),
        ("[limit]\nmax_sessions = 1\n", "limits"),
        ("prt = 1\n", "listen.port"),
        ("[listen]\nmax_sesions = 1\n", "limits.max_sessions"),
    ],
)
def test_unknown_keys_of_the_file_name_the_nearest(tmp_path: Path, text: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"the nearest is {nearest}$"):
        load({}, {}, write(tmp_path, text))


def test_unknown_overrides_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="the nearest is max_sessions$"):
        load({"max_session": 1}, {})


def test_a_table_must_be_a_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a table, \[listen\]"):
        load({}, {}, write(tmp_path, "listen = 5\n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    with pytest.raises(ConfigError) as caught:
        load({}, {"DIFFSCRIBE_CONFIG": str(absent)})
    assert (caught.value.key, caught.value.value) == ("DIFFSCRIBE_CONFIG", str(absent))
    with pytest.raises(ConfigError, match="^--config=.*a TOML file"):
        load({}, {}, write(tmp_path, "[listen\n"))
    broken = tmp_path / "latin.toml"
    broken.write_bytes(b"# \xff\n")
    with pytest.raises(ConfigError, match="a file that can be read"):
        load({}, {}, broken)


@given(text=st.text(max_size=12))
def test_any_text_is_a_port_or_a_config_error(text: str) -> None:
    try:
        port = load({}, {"DIFFSCRIBE_PORT": text}).listen.port
    except ConfigError:
        return
    assert port == int(text)


def test_booleans_are_strict() -> None:
    """No option is one yet; the parser is ready for the first."""
    assert [module._parse(bool, text) for text in ("true", "1", "False", "0")] == [
        True,
        True,
        False,
        False,
    ]
    assert module._parse(bool, "yes") == "yes"
    assert not module._is_a(bool, "yes")
    assert not module._is_a(bool, 1)


@pytest.mark.parametrize(("given", "missing"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_a_certificate_comes_with_its_key(given: str, missing: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({given: "a.pem"}, {})
    assert caught.value.key == f"web.{missing}"
    assert not load({}, {}).web.has_tls
    assert load({"tls_self_signed": True}, {}).web.has_tls


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ice_server", "http://a.example"),
        ("ice_server", "turn:user@a.example"),
        ("allow_origin", "a.example"),
        ("allow_origin", "https://a.example/"),
        ("token_secret", "short"),
        ("tls_self_signed", "maybe"),
    ],
)
def test_what_browsers_could_not_use_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({name: value}, {})
    assert name in caught.value.key.replace("-", "_")
