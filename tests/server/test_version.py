"""The version is what is installed, and something readable where nothing is."""

from __future__ import annotations

import importlib.metadata

import pytest

from stream_server.version import version


def test_the_version_is_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"diffscribe": "1.2.3"}.__getitem__)
    assert version() == "1.2.3"


def test_a_source_tree_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert version() == "0+source"
