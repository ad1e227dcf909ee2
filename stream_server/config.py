"""Configuration: frozen dataclasses, read once, validated with key and value in the message.

Each option is one field here and nowhere else: its flag on the command line (``--max-sessions``),
its environment variable (``DIFFSCRIBE_MAX_SESSIONS``) and its place in the TOML file
(``[limits] max_sessions``) follow from its name. Precedence: command line, environment, file,
default.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """Where the server listens and whom it lets in."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: tuple[str, ...] = ()
    """Keys that open the server; none leaves it open."""
    log_level: str = "info"
    """debug, info, warning or error."""


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
    idle_timeout_ms: int = 60_000
    """Milliseconds without any message after which a session is closed; 0 is never."""
    drain_seconds: float = 30.0
    """Seconds that running sessions get to finish after SIGTERM."""


@dataclass(frozen=True, slots=True)
class SegmenterConfig:
    """Voice activity detection; endpointing itself is set per session."""

    vad_aggressiveness: int = 2
    """0 to 3 of WebRTC's detector; higher takes less for speech."""


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


@dataclass(frozen=True, slots=True)
class RecogniserConfig:
    """Which model, where, how many steps."""

    model: str = "embedded"
    """``embedded``, ``fake``, a folder, or a model's name on the hub."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    steps: int = 8
    """Denoising steps of a final; 1 to 64."""
    partial_steps: int = 3
    """Denoising steps of a partial; 1 to 64."""
    threads: int = 0
    """CPU threads of the model; 0 takes every core."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    listen: ListenConfig = field(default_factory=ListenConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    recogniser: RecogniserConfig = field(default_factory=RecogniserConfig)


__all__ = [
    "Config",
    "LimitsConfig",
    "ListenConfig",
    "RecogniserConfig",
    "SchedulerConfig",
    "SegmenterConfig",
]
