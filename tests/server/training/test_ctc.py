"""The loss is the sum over all paths; what cannot be said costs nothing and breaks nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stream_server.training.ctc import ctc_loss


def nats(logs: Tensor, text: list[int]) -> float:
    """The loss of a text, from every path that says it."""
    paths = [
        sum(float(logs[frame, token]) for frame, token in enumerate(path))
        for path in itertools.product(range(logs.shape[1]), repeat=len(logs))
        if [token for token, _ in itertools.groupby(path) if token] == text
    ]
    return -math.log(sum(map(math.exp, paths)))


def test_ctc_is_the_sum_over_all_paths_per_token() -> None:
    logs = torch.randn(3, 4, 3).log_softmax(dim=-1)
    texts, counts = [[1, 2], [1], [2, 2]], [4, 3, 4]
    total = sum(nats(logs[row, : counts[row]], text) for row, text in enumerate(texts))
    text = torch.tensor([[1, 2], [1, 0], [2, 2]])
    loss = ctc_loss(logs, torch.tensor(counts), text, torch.tensor([2, 1, 2]))
    assert float(loss) == pytest.approx(total / 5, abs=1e-5)


def test_ctc_is_pytorch_s_mean_over_tokens() -> None:
    logs = torch.randn(5, 20, 12).log_softmax(dim=-1)
    lengths = torch.tensor([6, 5, 0, 3, 1])
    text = torch.randint(1, 12, (5, 6)) * (torch.arange(6) < lengths[:, None])
    counts = torch.tensor([20, 15, 9, 20, 4])
    each = functional.ctc_loss(logs.transpose(0, 1), text, counts, lengths, reduction="sum")
    assert float(ctc_loss(logs, counts, text, lengths)) == pytest.approx(float(each) / 15, rel=1e-6)


def test_a_row_whose_text_does_not_fit_adds_nothing() -> None:
    logs = torch.randn(2, 4, 5).log_softmax(dim=-1).requires_grad_()
    text, lengths = torch.tensor([[1, 1, 2, 3], [1, 2, 0, 0]]), torch.tensor([4, 2])
    loss = ctc_loss(logs, torch.tensor([4, 4]), text, lengths)
    assert float(loss.detach()) == pytest.approx(nats(logs[1].detach(), [1, 2]) / 6, abs=1e-5)
    loss.backward()
    assert logs.grad is not None
    assert not logs.grad[0].any()
    assert logs.grad[1].abs().max() > 0


def test_ctc_of_nothing_is_finite() -> None:
    logs = torch.randn(2, 3, 5, requires_grad=True)
    none = torch.tensor([0, 0])
    loss = ctc_loss(logs.log_softmax(dim=-1), torch.tensor([3, 2]), none[:, None], none)
    loss.backward()
    assert loss.isfinite()
    assert logs.grad is not None
    assert logs.grad.isfinite().all()
