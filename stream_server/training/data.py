"""Recordings for training: manifests, which clips are kept for testing, and plain text.

A manifest is a JSON-lines file beside its audio: ``audio``, ``text``, ``language``, ``speaker``,
``duration``; where a clip is a stretch of its audio, ``start`` and ``end`` too, in samples. A clip
kept for testing is never trained on, nor is its sentence where the sentence is what is being tested
(read or synthesised by anybody else).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_server.errors import ConfigError

_DROPPED = re.compile(r"[^a-z' ]+")
_SPACES = re.compile(r" +")
_HAS_DIGIT = re.compile(r"\d")
_TO_DAY = re.compile(r"\bto (day|night|morrow)\b")
"""As older books have it."""
_ABBREVIATIONS = {"mr.": "mister", "mrs.": "missus", "dr.": "doctor", "st.": "saint", "&": "and"}


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording with its transcript."""

    audio: Path
    text: str
    """Plain: see :func:`plain_text`."""
    speaker: str
    duration: float
    """Seconds."""
    set: str
    """Name of the folder it comes from."""
    start: int = 0
    """Sample of the recording where it begins."""
    end: int | None = None
    """Sample behind its last; none: it goes on to the end."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What of a set is kept for testing."""

    speakers: tuple[str, ...] = ()
    every_nth_speaker: int = 0
    """Keep each n-th speaker of the sorted list; 0 keeps none."""
    last_clips: int = 0
    """Keep the last clips in the order of their file names."""
    every: bool = False
    """Keep the whole set."""


def plain_text(text: str) -> str | None:
    """Return ``text`` in lower case letters, apostrophes and single spaces.

    None where that would not be what was said: digits have more than one reading.
    """
    if _HAS_DIGIT.search(text):
        return None
    text = unicodedata.normalize("NFKD", text.replace("\u2019", "'"))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    words = [_ABBREVIATIONS.get(word, word) for word in text.lower().split()]
    plain = _DROPPED.sub(" ", " ".join(words))
    plain = _SPACES.sub(" ", re.sub(r"(?<![a-z])'|'(?![a-z])", " ", plain)).strip()
    return _TO_DAY.sub(r"to\1", plain) or None


def read_manifest(folder: Path, manifest: Path | None = None) -> list[Clip]:
    """Read the English clips of a set whose transcripts are known, in the order of file names.

    Args:
        folder: where the audio is.
        manifest: in the place of the folder's own.

    Raises:
        ConfigError: it is not there, or a line of it is wrong.
    """
    path = manifest or folder / "manifest.jsonl"
    if not path.is_file():
        raise ConfigError("manifest", str(path), "a JSON-lines file that is there")
    clips = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            clip = _clip(folder, json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError("manifest", f"{path}:{number}", repr(error)) from error
        if clip is not None:
            clips.append(clip)
    return sorted(clips, key=lambda clip: (clip.audio.name, clip.start))


def _clip(folder: Path, entry: Mapping[str, Any]) -> Clip | None:
    """Return what a line of a manifest is about; none where it is of no use here."""
    if entry["language"] != "en" or not entry["text"]:
        return None
    text = plain_text(entry["text"])
    if text is None:
        return None
    start, end = entry.get("start", 0), entry.get("end")
    if start < 0 or (end is not None and end <= start):
        raise ValueError(f"samples {start} to {end}")
    audio, speaker = folder / entry["audio"], entry["speaker"] or folder.name
    return Clip(audio, text, speaker, float(entry["duration"]), folder.name, start, end)


def split(clips: list[Clip], rule: HeldOut) -> tuple[list[Clip], list[Clip]]:
    """Return the clips to train on and those to test on."""
    if rule.every:
        return [], clips
    speakers = set(rule.speakers)
    if rule.every_nth_speaker:
        speakers |= set(sorted({clip.speaker for clip in clips})[:: rule.every_nth_speaker])
    tail = {clip.audio.name for clip in clips[max(0, len(clips) - rule.last_clips) :]}
    test = [clip for clip in clips if clip.speaker in speakers or clip.audio.name in tail]
    kept = {clip.audio for clip in test}
    return [clip for clip in clips if clip.audio not in kept], test


def load_sets(
    root: Path,
    names: Iterable[str],
    rules: Mapping[str, HeldOut],
    manifests: Mapping[str, Path] | None = None,
) -> tuple[list[Clip], dict[str, list[Clip]]]:
    """Read sets and split them.

    Args:
        root: folder of the sets.
        names: of the sets.
        rules: what of them is kept for testing.
        manifests: of sets whose folders have none with text.

    Returns:
        Clips to train on, without any sentence of more than five words that a test clip of a
        ``last_clips`` rule has, and the test clips of each set.
    """
    train: list[Clip] = []
    tests: dict[str, list[Clip]] = {}
    sealed: set[str] = set()
    for name in names:
        rule = rules.get(name, HeldOut())
        kept, test = split(read_manifest(root / name, (manifests or {}).get(name)), rule)
        train += kept
        tests[name] = test
        if rule.last_clips:
            sealed |= {clip.text for clip in test if len(clip.text.split()) > 5}
    return [clip for clip in train if clip.text not in sealed], tests


__all__ = [
    "Clip",
    "HeldOut",
    "load_sets",
    "plain_text",
    "read_manifest",
    "split",
]
