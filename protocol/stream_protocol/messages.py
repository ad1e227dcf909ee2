"""Every message of the diffscribe streaming protocol, version 1.

One frozen type per message, tagged by ``type`` on the wire, with the unit under each field. This
file knows nothing about bytes (``codec``), order (``connection``) or sockets.

Positions are integer samples at 16 kHz from the start of the stream's media clock, whatever rate
the client sends. Text frames carry these messages as JSON; binary frames carry audio.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROTOCOL_VERSION = 1
SUBPROTOCOL = "diffscribe.v1"
CLOCK_RATE = 16_000
"""Hertz of every position in this protocol."""
RESUME_GRID = 320
"""Samples; a stream resumed a multiple of this from where it began is heard in the same frames."""
RESUME_LEAD = 20 * CLOCK_RATE
"""Samples before ``covered`` from which on a server hears just what it heard before the break."""

Encoding = Literal["pcm_s16le", "pcm_f32le", "mulaw", "alaw", "webm", "ogg"]
SampleRate = Literal[8000, 16000, 24000, 44100, 48000]
ChannelMode = Literal["mix", "split"]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """Base of every message and of their parts: immutable, unknown fields refused."""


class Endpointing(Message, frozen=True):
    """When a pause ends a segment."""

    silence_ms: int = 500
    """Milliseconds of silence that end a segment; 100 to 5000."""
    max_segment_ms: int = 15_000
    """Milliseconds after which running speech is cut at its quietest point; 2000 to 30000."""
    min_speech_ms: int = 90
    """Milliseconds of speech under which a burst is taken for noise; 0 to 2000."""


class ResumeChannel(Message, frozen=True):
    """Where one transcript goes on."""

    covered: int
    """Samples; audio from ``resume.position`` to here is heard but not transcribed again."""
    speaking: bool = False
    """Whether a segment runs here: the last one was cut, and its speech went on."""


class Resume(Message, frozen=True):
    """Carry on an earlier stream, on this or another server."""

    token: str
    """The ``resume_token`` of the session that broke."""
    position: int
    """Samples; the media-clock position of the first audio sample that the client will send."""
    segment: int = 0
    """The number that the next segment gets, so that numbers go on across the break."""
    channels: list[ResumeChannel] | None = None
    """One for each transcript, two only with ``split``; none begins them all at ``position``."""


# --- client to server ---------------------------------------------------------------------------


class Start(Message, frozen=True, tag_field="type", tag="start"):
    """Open the stream. Must be the first message."""

    encoding: Encoding = "pcm_s16le"
    sample_rate: SampleRate = 16000
    """Hertz of the audio frames; ignored for containers (webm, ogg), which say it themselves."""
    channels: int = 1
    """1 or 2, interleaved; ignored for containers."""
    channel_mode: ChannelMode = "mix"
    """``mix``: one transcript of all channels. ``split``: one transcript per channel."""
    language: str | None = None
    """ISO 639-1 code; none lets the model decide."""
    partial_interval_ms: int = 500
    """Milliseconds of new audio between partials, 100 to 10000; 0 sends no partials."""
    steps: int | None = None
    """Denoising steps of a final, 1 to 64; none takes the server's default."""
    words: bool = False
    """Whether finals carry word times and confidences."""
    endpointing: Endpointing = Endpointing()
    resume: Resume | None = None
    trace: bool = False
    """Whether ``trace`` messages show the canvas of each decode."""


class Flush(Message, frozen=True, tag_field="type", tag="flush"):
    """Finalise everything heard so far now. Always answered by ``flushed``."""

    id: str | None = None
    """Echoed in the answer."""


class Configure(Message, frozen=True, tag_field="type", tag="configure"):
    """Change endpointing or language while running; a field left out stays as it is."""

    endpointing: Endpointing | None = None
    language: str | None = None
    partial_interval_ms: int | None = None


class Stop(Message, frozen=True, tag_field="type", tag="stop"):
    """No more audio follows. The server sends what is left, then ``done``, then closes."""


# --- server to client ---------------------------------------------------------------------------


class Limits(Message, frozen=True):
    """What this session may do."""

    max_message_bytes: int
    """Bytes of one WebSocket message."""
    max_unprocessed_ms: int
    """Milliseconds of audio that may wait; beyond it reading pauses."""
    idle_timeout_ms: int
    """Milliseconds without any message after which the session is closed; 0 is never."""
    max_session_ms: int
    """Milliseconds of audio in one session; 0 is no limit."""


class Ready(Message, frozen=True, tag_field="type", tag="ready"):
    """The stream is open."""

    session: str
    resume_token: str
    model: str
    """Name of the loaded model."""
    languages: list[str]
    """ISO 639-1 codes that the model knows."""
    limits: Limits
    version: int = PROTOCOL_VERSION


class Ack(Message, frozen=True, tag_field="type", tag="ack"):
    """Audio received in order so far."""

    samples: int
    """Media-clock position after the last sample received."""


class SpeechStarted(Message, frozen=True, tag_field="type", tag="speech_started"):
    """Speech began."""

    segment: int
    channel: int
    at: int
    """Samples."""


class SpeechEnded(Message, frozen=True, tag_field="type", tag="speech_ended"):
    """Speech ended; the final of the segment follows or has been sent."""

    segment: int
    channel: int
    at: int
    """Samples; end of the speech itself, not of the silence that proved it."""


class Partial(Message, frozen=True, tag_field="type", tag="partial"):
    """What has been heard of a running segment."""

    segment: int
    channel: int
    revision: int
    """Counts up from 1 within the segment."""
    stable: str
    """Only grows from partial to partial; the final has heard the whole, and may correct it."""
    tentative: str
    """May be rewritten. The whole text is ``stable + tentative``."""
    start: int
    """Samples."""
    end: int
    """Samples; how far the audio behind this text reaches."""


class Word(Message, frozen=True):
    """A word of a final."""

    text: str
    start: int
    """Samples."""
    end: int
    """Samples."""
    confidence: float
    """0 to 1."""


class Timings(Message, frozen=True):
    """Where the time of a final went."""

    audio_ms: float
    """Milliseconds of audio decoded."""
    queue_ms: float
    """Milliseconds from the request to its first step."""
    decode_ms: float
    """Milliseconds from the first step to the last."""
    steps: int
    """Denoising steps run."""


class Final(Message, frozen=True, tag_field="type", tag="final"):
    """The text of a segment; it does not change any more."""

    segment: int
    channel: int
    revision: int
    text: str
    """May be empty: nothing was said after all."""
    start: int
    """Samples."""
    end: int
    """Samples; audio before this position is not transcribed again in a resume."""
    language: str | None
    confidence: float
    """0 to 1, mean over the words; 0 for an empty text."""
    words: list[Word] | None
    """None unless asked for with ``words``."""
    timings: Timings


class Trace(Message, frozen=True, tag_field="type", tag="trace"):
    """How the text of a segment came about. Only where ``start`` asked for it."""

    segment: int
    channel: int
    revision: int
    """Of the decode that it shows; not every one becomes a ``partial``."""
    canvases: list[str]
    """The decoder's canvas as text after each denoising step, first to last."""


class Flushed(Message, frozen=True, tag_field="type", tag="flushed"):
    """Answer to ``flush``: every final up to ``position`` has been sent."""

    position: int
    """Samples."""
    id: str | None = None


class Notice(Message, frozen=True, tag_field="type", tag="notice"):
    """Something that the client may want to know; nothing is wrong."""

    code: str
    """``draining``, ``slow_down``, ``audio_adjusted``, ``silence``."""
    message: str


ErrorCode = Literal[
    "bad_message",
    "invalid_field",
    "wrong_state",
    "too_large",
    "bad_audio",
    "unauthorized",
    "overloaded",
    "draining",
    "timeout",
    "limit",
    "recognition_failed",
    "internal",
]


class Error(Message, frozen=True, tag_field="type", tag="error"):
    """Something went wrong; the message names the remedy."""

    code: ErrorCode
    message: str
    field: str | None
    """Path of the field that is wrong, as ``$.endpointing.silence_ms``."""
    retryable: bool
    """Whether the same call may work later or elsewhere."""
    fatal: bool
    """Whether the server closes the connection after this message."""


class Done(Message, frozen=True, tag_field="type", tag="done"):
    """Answer to ``stop``: everything has been sent."""

    samples: int
    """Media-clock position of the end of the stream."""
    segments: int
    """Finals sent in this session."""


ClientMessage = Start | Flush | Configure | Stop
ServerMessage = (
    Ready
    | Ack
    | SpeechStarted
    | SpeechEnded
    | Partial
    | Final
    | Trace
    | Flushed
    | Notice
    | Error
    | Done
)

__all__ = [
    "CLOCK_RATE",
    "PROTOCOL_VERSION",
    "RESUME_GRID",
    "RESUME_LEAD",
    "SUBPROTOCOL",
    "Ack",
    "ChannelMode",
    "ClientMessage",
    "Configure",
    "Done",
    "Encoding",
    "Endpointing",
    "Error",
    "ErrorCode",
    "Final",
    "Flush",
    "Flushed",
    "Limits",
    "Message",
    "Notice",
    "Partial",
    "Ready",
    "Resume",
    "ResumeChannel",
    "SampleRate",
    "ServerMessage",
    "SpeechEnded",
    "SpeechStarted",
    "Start",
    "Stop",
    "Timings",
    "Trace",
    "Word",
]
