"""The weights of two networks of one run, mixed: what is new without all that was forgotten.

What goes on from a checkpoint lies near it, so that weights between the two are a network as good
as both, and steadier on what neither trained on (Wortsman et al., 2022, Robust fine-tuning of
zero-shot models).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from stream_server.errors import ConfigError


def blend(new: Mapping[str, Tensor], old: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return weights between two networks.

    Args:
        new: weights by name.
        old: the same names and shapes.
        share: of the old ones, 0 to 1.

    Raises:
        ConfigError: they are not weights of one network, or the share is no share.
    """
    if not 0 <= share <= 1:
        raise ConfigError("share", share, "0 to 1")
    if {name: each.shape for name, each in new.items()} != {
        name: each.shape for name, each in old.items()
    }:
        raise ConfigError("old", "another network", "the checkpoint that the new one began from")
    return {
        name: each.lerp(old[name], share) if each.is_floating_point() else each
        for name, each in new.items()
    }


__all__ = ["blend"]
