"""Manifests of recordings, and which of their clips are measured.

A manifest is a JSON-lines file beside its audio: ``audio`` (relative to it), ``text`` (null where
nobody knows it), ``language`` (null where nobody speaks), ``speaker``, ``duration``. A clip that is
a stretch of its audio has ``start`` and ``end`` too, in samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from stream_server.errors import ConfigError
from stream_server.recogniser.interface import SAMPLE_RATE, Pcm
from stream_server.training.data import read_manifest, split
from stream_server.training.pack import read_stretch
from stream_server.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Example:
    """A clip to be recognised."""

    audio: Path | None
    """None is digital silence of the duration."""
    text: str | None
    """None where it is not known, or where nothing is said."""
    language: str | None
    """None where nobody speaks."""
    speaker: str | None
    duration: float
    """Seconds."""
    start: int = 0
    """Sample of the audio where it begins."""
    end: int | None = None
    """Sample behind its last; none: it goes on to the end."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which clips of a manifest are measured."""

    speakers: tuple[str, ...] = ()
    """Only these; all where empty."""
    limit: int = 0
    """Only so many, spread evenly over the manifest; 0 is all."""
    longest: float = math.inf
    """Seconds over which a clip is left out."""
    recipe: Recipe | None = None
    """Only what training by this recipe left out."""
    silent: bool = False
    """Clips in which nobody speaks, in the place of those with speech."""
    untranscribed: bool = False
    """Also speech whose text nobody knows."""

    def wants(self, example: Example) -> bool:
        """Return whether a clip is one of these, as far as it alone tells."""
        if self.speakers and example.speaker not in self.speakers:
            return False
        if example.duration > self.longest:
            return False
        if self.silent:
            return example.language is None and not example.text
        return bool(example.text) or (self.untranscribed and example.language is not None)


class _Entry(msgspec.Struct, frozen=True):
    audio: str
    duration: float
    text: str | None = None
    language: str | None = None
    speaker: str | None = None
    start: Annotated[int, msgspec.Meta(ge=0)] = 0
    end: Annotated[int, msgspec.Meta(ge=1)] | None = None


def read_examples(manifest: Path, selection: Selection) -> list[Example]:
    """Read the clips of a manifest that are asked for.

    Where a recipe is given and brings the texts of the set along, they are read from there.

    Raises:
        ConfigError: it is not there, a line of it is wrong, or it has no such clip.
    """
    if not manifest.is_file():
        raise ConfigError("manifest", str(manifest), "a JSON-lines file that is there")
    source, kept = manifest, None
    if selection.recipe is not None:
        source = selection.recipe.speech.manifests.get(_set_of(manifest), manifest)
        kept = _held_out(manifest, source, selection.recipe)
    examples = []
    lines = source.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            entry = msgspec.json.decode(line, type=_Entry)
        except msgspec.DecodeError as error:
            raise ConfigError("manifest", f"{source}:{number}", str(error)) from error
        path = manifest.parent / entry.audio
        example = Example(
            path, entry.text, entry.language, entry.speaker, entry.duration, entry.start, entry.end
        )
        if selection.wants(example) and (kept is None or path in kept):
            examples.append(example)
    if selection.limit and len(examples) > selection.limit:
        picks = np.linspace(0, len(examples) - 1, selection.limit).round().astype(int)
        examples = [examples[index] for index in picks]
    if not examples:
        wanted = "clips without speech" if selection.silent else "transcribed clips"
        raise ConfigError("manifest", str(manifest), f"one that has {wanted} as asked for")
    return examples


def _set_of(manifest: Path) -> str:
    return manifest.resolve().parent.name


def _held_out(manifest: Path, source: Path, recipe: Recipe) -> set[Path] | None:
    """Return the clips that training by ``recipe`` left out; none where it uses nothing of them."""
    name = _set_of(manifest)
    if name not in recipe.speech.weights:
        return None
    rule = recipe.speech.held_out.get(name)
    if rule is None:
        allowed = f"a set of which recipe {recipe.name} holds something out, not {name}"
        raise ConfigError("manifest", str(manifest), allowed)
    _, tests = split(read_manifest(manifest.parent, source), rule)
    return {clip.audio for clip in tests}


def read_audio(example: Example, before: int = 0, after: int = 0) -> Pcm:
    """Read a clip, 16 kHz mono, and put silence around it.

    Args:
        example: the clip.
        before: samples of silence.
        after: the same, at the end.

    Raises:
        ConfigError: it cannot be read, is something else, or is shorter than the clip.
    """
    if example.audio is None:
        return np.zeros(int(example.duration * SAMPLE_RATE), np.float32)
    pcm = read_stretch(example.audio, example.start, example.end, "float32")
    return np.pad(pcm, (before, after))


__all__ = ["Example", "Selection", "read_audio", "read_examples"]
