"""A replayed call gives what the call gives."""

from __future__ import annotations

import pytest
import torch

from stream_server.recogniser.graphs import Graphs


def test_nothing_is_recorded_at_first() -> None:
    graphs: Graphs[torch.Tensor] = Graphs(torch.device("cpu"))
    assert ("step", 1) not in graphs
    with pytest.raises(KeyError):
        graphs.replay(("step", 1), ())


@pytest.mark.gpu
def test_a_replay_reads_its_own_inputs() -> None:
    device = torch.device("cuda")
    graphs: Graphs[torch.Tensor] = Graphs(device)
    total = torch.zeros(4, device=device)

    def add(value: torch.Tensor) -> torch.Tensor:
        total.add_(value)
        return total * 2

    graphs.record("add", add, (torch.ones(4, device=device),))
    before = total.clone()
    result = graphs.replay("add", (torch.full((4,), 5.0, device=device),))
    assert "add" in graphs
    assert torch.equal(total, before + 5)
    assert torch.equal(result, total * 2)
