"""The vocabulary between session and driver."""

from __future__ import annotations

import dataclasses

import pytest

from stream_server.session.effects import Cancel, Close


def test_effects_are_values() -> None:
    assert Cancel(3) == Cancel(3) != Cancel(None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Close(1000, "done").code = 1001  # type: ignore[misc]
