"""The projector shortens by powers of two, and keeps each row to itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stream_server.recogniser.projector import CtcHead, Projector, ProjectorConfig

LONGEST = 40


@pytest.fixture(params=[0, 1, 2, 3])
def projector(request: pytest.FixtureRequest, enliven: Callable[[nn.Module], None]) -> Projector:
    width = 16 if request.param else 8
    projector = Projector(ProjectorConfig(8, width, 12, halvings=request.param)).eval()
    if request.param:
        enliven(projector)
    return projector


def states(count: int) -> tuple[Tensor, Tensor]:
    """Rows of every length up to ``count``."""
    return torch.randn(count, count, 8), torch.arange(1, count + 1)


@torch.no_grad()
def test_the_counts_agree_with_the_shapes(projector: Projector) -> None:
    values, lengths = states(LONGEST)
    together, counts = projector(values, lengths)
    assert together.shape == (LONGEST, int(counts.max()), 12)
    for row, length in enumerate(lengths.tolist()):
        alone, count = projector(values[row : row + 1, :length], torch.tensor([length]))
        assert count.tolist() == [alone.shape[1]] == counts[row : row + 1].tolist()
        torch.testing.assert_close(together[row, : int(count)], alone[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_reaches_no_token(projector: Projector) -> None:
    values, lengths = states(LONGEST)
    clean, counts = projector(values, lengths)
    behind = torch.arange(LONGEST) >= lengths[:, None]
    dirty, _ = projector(values.masked_fill(behind[..., None], 1000.0), lengths)
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(dirty[row, :count], clean[row, :count], atol=1e-5, rtol=0)


@torch.no_grad()
def test_whisper_states_become_one_token_each_160_ms() -> None:
    projector = Projector(ProjectorConfig(8, 8, 8))
    tokens, counts = projector(torch.randn(1, 1500, 8), torch.tensor([1500]))
    assert tokens.shape == (1, 188, 8)
    assert counts.tolist() == [188]


@torch.no_grad()
def test_normed_tokens_are_of_unit_scale() -> None:
    projector = Projector(ProjectorConfig(8, 8, 32, halvings=1, norm=True))
    tokens, _ = projector(torch.randn(2, 9, 8) * 50, torch.tensor([9, 9]))
    torch.testing.assert_close(tokens.square().mean(dim=-1), torch.ones(2, 5))


@torch.no_grad()
def test_the_ctc_head_gives_each_token_its_parts_in_order() -> None:
    head = CtcHead(8, vocabulary=5, parts=3)
    tokens = torch.randn(2, 4, 8)
    logs = head(tokens)
    assert logs.shape == (2, 12, 5)
    torch.testing.assert_close(logs.exp().sum(dim=-1), torch.ones(2, 12))
    for part in range(3):
        rows = slice(part * 5, part * 5 + 5)
        own = nn.functional.linear(tokens, head.linear.weight[rows], head.linear.bias[rows])
        torch.testing.assert_close(logs[:, part::3], own.log_softmax(dim=-1))


@torch.no_grad()
def test_ctc_scores_are_float32_whatever_the_tokens_are() -> None:
    head = CtcHead(8, vocabulary=5, parts=1).to(torch.bfloat16)
    assert head(torch.randn(1, 4, 8, dtype=torch.bfloat16)).dtype is torch.float32
