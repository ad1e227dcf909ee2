"""Carry a corpus in few files: Opus at a low rate, texts and sets in a JSON index in front.

The training machine may reach nothing outside it, and what travels to it is small. About 5.5 MB
an hour at 12 kbit/s.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile

from stream_server.errors import ConfigError
from stream_server.training.data import Clip

RATE = 16_000
PART_BYTES = 38_000_000
"""Audio in one file, so that each can travel by itself."""
Samples = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Packed:
    """A clip in memory."""

    pcm: Samples
    text: str
    speaker: str
    set: str
    held_out: bool = False
    """Kept for testing: never trained on."""


def read_stretch(
    path: Path, start: int, end: int | None, dtype: Literal["int16", "float32"]
) -> npt.NDArray[Any]:
    """Read what lies between two samples of a recording.

    Args:
        path: of the recording.
        start: its first sample that is wanted.
        end: the sample behind the last; none: all to the end.
        dtype: of the samples.

    Raises:
        ConfigError: it cannot be read, is no 16 kHz mono, or is shorter than that.
    """
    name = str(path)
    try:
        pcm, rate = soundfile.read(name, dtype=dtype)
    except soundfile.LibsndfileError as error:
        raise ConfigError("audio", name, str(error)) from error
    if rate != RATE or pcm.ndim != 1:
        raise ConfigError("audio", name, f"16 kHz mono, not {rate} Hz, shape {pcm.shape}")
    if end is not None and end > len(pcm):
        raise ConfigError("end", end, f"at most {len(pcm)}, the samples of {name}")
    return np.ascontiguousarray(pcm[start:end])


def read_recording(path: Path) -> Samples:
    """Read a whole recording.

    Raises:
        ConfigError: it cannot be read, or is something else than 16 kHz mono.
    """
    return read_stretch(path, 0, None, "int16")


def read_clip(clip: Clip) -> Samples:
    """Read a clip, a stretch of a recording where it is one.

    Raises:
        ConfigError: the recording cannot be read, is no 16 kHz mono, or is shorter than that.
    """
    return read_stretch(clip.audio, clip.start, clip.end, "int16")


def _encode(job: tuple[Clip, int]) -> bytes:
    import av

    clip, bit_rate = job
    pcm = read_clip(clip)
    target = io.BytesIO()
    with av.open(target, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    data = target.getvalue()
    try:
        soundfile.read(io.BytesIO(data))
    except soundfile.LibsndfileError:
        # libsndfile refuses an Ogg of a single page, which is what a very short clip becomes.
        if clip.start == 0 and clip.end is None:
            return clip.audio.read_bytes()
        target = io.BytesIO()
        soundfile.write(target, pcm, RATE, format="FLAC")
        return target.getvalue()
    return data


def _decode(data: bytes) -> Samples:
    pcm, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    if rate != RATE or pcm.ndim != 1:
        raise ValueError(f"packed audio has {rate} Hz and shape {pcm.shape}")
    return np.ascontiguousarray(pcm)


def write_packs(
    folder: Path,
    clips: Iterable[Clip],
    tests: Iterable[Clip],
    bit_rate: int,
    report: Callable[[int], None],
) -> list[Path]:
    """Write clips to ``pack-NN.bin`` files of at most ``PART_BYTES`` of audio.

    Args:
        folder: where to.
        clips: to train on.
        tests: clips that are kept from training.
        bit_rate: bits a second.
        report: called with the count of clips done.

    Raises:
        ConfigError: a recording cannot be read, or is shorter than a clip of it.
    """
    jobs = [(clip, False) for clip in clips] + [(clip, True) for clip in tests]
    parts: list[tuple[list[dict[str, object]], list[bytes]]] = [([], [])]
    used = 0
    with ProcessPoolExecutor() as pool:
        blobs = pool.map(_encode, [(clip, bit_rate) for clip, _ in jobs], chunksize=16)
        for done, ((clip, held_out), blob) in enumerate(zip(jobs, blobs, strict=True), 1):
            if used + len(blob) > PART_BYTES:
                parts.append(([], []))
                used = 0
            used += len(blob)
            entry = {"text": clip.text, "speaker": clip.speaker, "set": clip.set}
            parts[-1][0].append({**entry, "held_out": held_out, "bytes": len(blob)})
            parts[-1][1].append(blob)
            report(done)
    paths = []
    for number, (index, audio) in enumerate(parts, 1):
        head = json.dumps(index).encode()
        paths.append(folder / f"pack-{number:02d}.bin")
        with paths[-1].open("wb") as file:
            file.write(struct.pack("<Q", len(head)) + head)
            file.writelines(audio)
    return paths


def read_packs(folder: Path, workers: int | None = None) -> list[Packed]:
    """Read every pack of a folder, decoding on every core."""
    entries = []
    for path in sorted(folder.glob("pack-*.bin")):
        data = path.read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        offset = 8 + size
        for entry in json.loads(data[8:offset]):
            end = offset + entry.pop("bytes")
            entries.append((entry, data[offset:end]))
            offset = end
    with ProcessPoolExecutor(workers) as pool:
        decoded = list(pool.map(_decode, [blob for _, blob in entries], chunksize=32))
    return [Packed(pcm, **entry) for pcm, (entry, _) in zip(decoded, entries, strict=True)]


def write_spoken(path: Path, clips: Sequence[Packed]) -> None:
    """Write synthesised clips uncompressed: they stay on the machine that made them."""
    index = [
        {"text": c.text, "speaker": c.speaker, "set": c.set, "size": len(c.pcm)} for c in clips
    ]
    part = path.with_suffix(".part.npz")
    np.savez(part, audio=np.concatenate([c.pcm for c in clips]), index=json.dumps(index))
    part.replace(path)


def read_spoken(path: Path) -> list[Packed]:
    """Read what :func:`write_spoken` wrote."""
    with np.load(path) as file:
        audio, index = file["audio"], json.loads(str(file["index"]))
    ends = np.cumsum([entry["size"] for entry in index])
    parts = np.split(audio, ends[:-1])
    return [
        Packed(pcm, entry["text"], entry["speaker"], entry["set"])
        for pcm, entry in zip(parts, index, strict=True)
    ]


__all__ = [
    "PART_BYTES",
    "RATE",
    "Packed",
    "Samples",
    "read_clip",
    "read_packs",
    "read_recording",
    "read_spoken",
    "read_stretch",
    "write_packs",
    "write_spoken",
]
