from __future__ import annotations

import os

import pytest

from stream_client.errors import OutputError
from stream_client.whole_file import replace_file


def test_a_file_is_replaced_and_a_link_stays_one(tmp_path):
    target, link = tmp_path / "a.vtt", tmp_path / "b.vtt"
    link.symlink_to(target)
    for text in ("one", "ä"):
        replace_file(link, text)
        assert target.read_text(encoding="utf-8") == text
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a.vtt", "b.vtt"]


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        replace_file(tmp_path / "nowhere" / "a.vtt", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder: cannot be written"):
        replace_file(tmp_path / "folder", "text")
    assert os.listdir(tmp_path) == ["folder"]
