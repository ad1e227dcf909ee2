"""Slots of preallocated memory, leased to prompts: a slot is free again when its lease is gone."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from stream_server.errors import Overloaded
from stream_server.recogniser.decoder import PromptCache


class Lease:
    """The right to a slot, for as long as anything holds this."""

    __slots__ = ("__weakref__", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot


class Leases:
    """Hands out slots 0 to ``count``.

    Who drops the last reference to a lease gives its slot back; no call can be forgotten where a
    row ends by an error. Whoever drops a row has been told of its last step, so none is in flight;
    and should one be (after an error), it is before the new tenant's first in the same stream.
    """

    def __init__(self, count: int) -> None:
        self._free = list(range(count))[::-1]

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return len(self._free)

    def take(self, count: int) -> tuple[Lease, ...]:
        """Lease slots.

        Raises:
            Overloaded: there are not so many.
        """
        if count > len(self._free):
            raise Overloaded(f"{count} rows asked for, room for {len(self._free)}: try again later")
        leases = tuple(Lease(self._free.pop()) for _ in range(count))
        for lease in leases:
            # At exit nobody needs the slot.
            weakref.finalize(lease, self._free.append, lease.slot).atexit = False
        return leases


@dataclass(frozen=True, slots=True)
class SlotPrompts(PromptCache):
    """Prompts whose keys and values lie in slots; ``keys`` and ``values`` are empty."""

    leases: tuple[Lease, ...] = ()

    @classmethod
    def of(cls, lengths: Tensor, leases: tuple[Lease, ...]) -> Self:
        """Return the prompts of some leases.

        Args:
            lengths: [rows], positions.
            leases: of the rows.
        """
        return cls((), (), lengths, leases)

    @property
    def slots(self) -> list[int]:
        """Of each row."""
        return [lease.slot for lease in self.leases]

    def row(self, index: int) -> SlotPrompts:
        """Return one row."""
        return SlotPrompts.of(self.lengths[index : index + 1], (self.leases[index],))

    @staticmethod
    def merge(caches: list[PromptCache]) -> PromptCache:
        """Return single rows as one: nothing moves."""
        leases = [each for cache in caches for each in _own(cache).leases]
        return SlotPrompts.of(torch.cat([cache.lengths for cache in caches]), tuple(leases))


def _own(cache: PromptCache) -> SlotPrompts:
    if not isinstance(cache, SlotPrompts):
        raise TypeError("a prompt that is not in a slot")
    return cache


__all__ = ["Lease", "Leases", "SlotPrompts"]
