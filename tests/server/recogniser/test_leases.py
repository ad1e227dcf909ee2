"""A slot has one tenant, and is free once nobody holds the lease."""

from __future__ import annotations

import pytest
import torch

from stream_server.errors import Overloaded
from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.leases import Leases, SlotPrompts


def test_slots_are_leased_once_and_come_back() -> None:
    leases = Leases(3)
    first = leases.take(2)
    assert leases.free == 1
    assert len({lease.slot for lease in first}) == 2
    with pytest.raises(Overloaded, match="2 rows asked for, room for 1"):
        leases.take(2)
    kept = first[0]
    del first
    assert leases.free == 2
    assert kept.slot not in {lease.slot for lease in leases.take(2)}


def test_rows_are_split_and_merged_without_moving() -> None:
    leases = Leases(3)
    prompts = SlotPrompts.of(torch.tensor([5, 6, 7]), leases.take(3))
    rows: list[PromptCache] = [prompts.row(2), prompts.row(0)]
    merged = rows[0].merge(rows)
    assert isinstance(merged, SlotPrompts)
    assert merged.slots == [prompts.slots[2], prompts.slots[0]]
    assert merged.lengths.tolist() == [7, 5]
    del prompts, rows
    assert leases.free == 1, "a merged prompt keeps its rows' slots"


def test_other_prompts_do_not_merge_with_slots() -> None:
    with pytest.raises(TypeError, match="not in a slot"):
        SlotPrompts.merge([PromptCache((), (), torch.tensor([1]))])
