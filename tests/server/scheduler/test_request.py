"""Requests are told apart by what they ask for, not by their samples."""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np
import pytest

from stream_server import metrics
from stream_server.recogniser.interface import Utterance
from stream_server.scheduler.request import Decoded, Dropped, DropReason, Failed, Reply, Request


def request(revision: int = 1, samples: int = 4) -> Request:
    pcm = np.zeros(samples, np.float32)
    return Request("s", 3, revision, is_final=False, utterance=Utterance(pcm, steps=2))


def test_key_is_stream_and_segment() -> None:
    assert request().key == ("s", 3)


def test_equality_and_hash_pass_over_the_samples() -> None:
    assert request(1, samples=4) == request(1, samples=9)
    assert request(1) != request(2)
    assert len({request(1), request(1), request(2)}) == 2


def test_requests_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        request().segment = 4  # type: ignore[misc]


def test_repr_shows_no_audio() -> None:
    assert "array" not in repr(request())


def test_replies_are_these_three() -> None:
    assert set(get_args(Reply)) == {Decoded, Failed, Dropped}


def test_metrics_know_every_reason() -> None:
    assert get_args(metrics.DropReason) == get_args(DropReason)
