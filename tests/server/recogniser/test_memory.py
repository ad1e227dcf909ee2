"""The memory of GPUs, where there are any."""

from __future__ import annotations

import pytest
import torch

from stream_server.recogniser.memory import fetch, gpu_memory, send, ship


def test_without_a_gpu_nothing_is_held() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu_memory() == 0


@pytest.mark.parametrize("numbers", [[3, 1], [[3, 1], [0, 2]], [[], []]])
@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_numbers_arrive(numbers: list[int], kind: str) -> None:
    sent = send(numbers, torch.device(kind))
    assert sent.tolist() == numbers
    assert sent.dtype == torch.long
    assert sent.device.type == kind


@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_tensors_go_there_and_come_back(kind: str) -> None:
    there = ship(torch.arange(6.0).view(2, 3), torch.device(kind))
    assert there.device.type == kind
    wait = fetch([there, there[:, 1:] * 2])
    if kind == "cuda":
        there.zero_()  # launched behind the copies
    first, second = wait()
    assert first.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert second.tolist() == [[2, 4], [8, 10]]
    assert first.device.type == "cpu"


@pytest.mark.gpu
def test_what_is_held_of_a_gpu_is_seen() -> None:
    held = torch.zeros(1 << 20, device="cuda")
    assert gpu_memory() >= held.numel() * 4
