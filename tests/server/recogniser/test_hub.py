"""A model's name means a folder or a repository; what stands in the way is said with its remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import errors

from stream_server.errors import ModelError
from stream_server.recogniser import hub
from stream_server.recogniser.hub import fetch


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Any]]:
    """Makes the hub's client give or raise something; returns what it was asked."""

    def set_answer(given: Any) -> list[Any]:
        asked: list[Any] = []

        def download(name: str, **options: Any) -> str:
            asked.append((name, options))
            if isinstance(given, Exception):
                raise given
            return str(given)

        monkeypatch.setattr(hub, "snapshot_download", download)
        return asked

    return set_answer


def test_a_folder_is_itself(tmp_path: Path, answer: Callable[[Any], list[Any]]) -> None:
    asked = answer("nowhere")
    assert fetch(str(tmp_path), "model", ("*.pt",)) == tmp_path
    assert asked == []


def test_a_name_is_downloaded(tmp_path: Path, answer: Callable[[Any], list[Any]]) -> None:
    asked = answer(tmp_path)
    assert fetch("owner/some-name", "model", ("*.pt", "*.json")) == tmp_path
    assert asked == [("owner/some-name", {"allow_patterns": ["*.pt", "*.json"]})]


@pytest.mark.parametrize("name", ["name", "/no/such/folder", "a/b/c", "./x"])
def test_what_is_neither_is_refused(name: str, answer: Callable[[Any], list[Any]]) -> None:
    asked = answer("nowhere")
    with pytest.raises(ModelError, match=r"audio_encoder '.*': not a folder.*as --audio-encoder"):
        fetch(name, "audio_encoder", ())
    assert asked == []


RESPONSE = httpx.Response(403, request=httpx.Request("GET", "https://example.test"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            errors.GatedRepoError("no", response=RESPONSE),
            r"accept its conditions at https://huggingface.co/o/n, then set HF_TOKEN",
        ),
        (errors.RepositoryNotFoundError("no", response=RESPONSE), r"no such repository.*HF_TOKEN"),
        (errors.LocalEntryNotFoundError("no"), r"not in the cache \(HF_HOME\).*HF_HUB_OFFLINE"),
        (errors.OfflineModeIsEnabled("no"), r"HF_HUB_OFFLINE.*give a folder as --backbone"),
        (errors.HfHubHTTPError("broken", response=RESPONSE), r"could not be downloaded: broken"),
        (OSError("disk is full"), r"could not be downloaded: disk is full"),
    ],
)
def test_what_stands_in_the_way_is_said(
    error: Exception, said: str, answer: Callable[[Any], list[Any]]
) -> None:
    answer(error)
    with pytest.raises(ModelError, match=said):
        fetch("o/n", "backbone", ())


def test_offline_the_cache_is_asked_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"'o/n' is not in the cache"):
        fetch("o/n", "model", ("*.pt",))
