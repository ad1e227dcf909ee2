"""Weights lie between those of two networks."""

from __future__ import annotations

import pytest
import torch

from stream_server.errors import ConfigError
from stream_server.training.blend import blend

NEW = {"a": torch.tensor([1.0, 2.0]), "steps": torch.tensor(7)}
OLD = {"a": torch.tensor([5.0, 4.0]), "steps": torch.tensor(3)}


def test_weights_lie_between_and_counts_are_the_new_ones() -> None:
    mixed = blend(NEW, OLD, 0.25)
    assert mixed["a"].tolist() == [2.0, 2.5]
    assert mixed["steps"] == 7


@pytest.mark.parametrize(("share", "which"), [(0.0, NEW), (1.0, OLD)])
def test_at_the_ends_it_is_one_of_them(share: float, which: dict[str, torch.Tensor]) -> None:
    assert torch.equal(blend(NEW, OLD, share)["a"], which["a"])


def test_what_is_no_share_or_another_network_is_refused() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="share"):
            blend(NEW, OLD, share)
    for other in ({"a": OLD["a"]}, {**OLD, "a": torch.zeros(3)}):
        with pytest.raises(ConfigError, match="old"):
            blend(NEW, other, 0.5)
