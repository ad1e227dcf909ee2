"""Processes take the mean of what they trained, at the same update, and end together."""

from __future__ import annotations

import socket
from multiprocessing import get_context
from multiprocessing.queues import Queue

import pytest
import torch

from stream_server.training.peers import Alone, Group, PeerConfig

CPU = torch.device("cpu")


def free_meeting() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


def take_part(config: PeerConfig, results: Queue[tuple[int, list[float], list[bool]]]) -> None:
    """One process of a run: its tensor is its place, and the second one is over at update 4."""
    group = Group(config, CPU)
    tensors = [torch.full((2, 3), float(config.place)), torch.tensor([10.0 * config.place])]
    seen, over = [], []
    for step in range(6):
        over.append(group.meet(step, tensors, config.place == 1 and step >= 3))
        seen.append(float(tensors[0][1, 2]) + float(tensors[1][0]))
        tensors[0] += config.place
        if over[-1]:
            break
    group.leave()
    results.put((config.place, seen, over))


@pytest.mark.timeout(120)
def test_all_have_the_mean_and_end_at_the_same_update() -> None:
    context = get_context("spawn")
    results: Queue[tuple[int, list[float], list[bool]]] = context.Queue()
    meeting = free_meeting()
    workers = [
        context.Process(target=take_part, args=(PeerConfig(n, 2, meeting, 2), results))
        for n in range(2)
    ]
    for worker in workers:
        worker.start()
    first, second = sorted(results.get(timeout=100) for _ in workers)
    for worker in workers:
        worker.join(timeout=20)
        assert worker.exitcode == 0
    # Means at 0 (0.5 + 5), at 2 (0.5 + 1 + 5) and at 4; in between each goes its own way.
    assert first[1] == [5.5, 5.5, 6.5, 6.5, 7.5]
    assert second[1] == [5.5, 6.5, 6.5, 7.5, 7.5]
    assert first[2] == second[2] == [False, False, False, False, True]


def test_a_run_of_one_process_ends_when_it_is_over() -> None:
    tensor = torch.ones(3)
    assert not Alone().meet(0, [tensor], False)
    assert Alone().meet(1, [tensor], True)
    assert tensor.tolist() == [1, 1, 1]
