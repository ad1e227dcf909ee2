"""Losses in slices and columns are those over the whole vocabulary, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stream_server.recogniser.backbone import Backbone, random_backbone
from stream_server.training import vocabulary
from stream_server.training.vocabulary import ctc_loss, score_norms, token_losses

OPTIONS = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "global_head_dim": 8,
    "num_global_key_value_heads": 1,
    "num_experts": 2,
    "top_k_experts": 1,
    "moe_intermediate_size": 8,
    "vocab_size": 40,
    "layer_types": ["full_attention"],
}


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """Tiny, with scores far enough apart, and slices smaller than what goes through."""
    monkeypatch.setattr(vocabulary, "SLICE", 7)
    backbone = random_backbone(OPTIONS, torch.device("cpu"), torch.float32)
    backbone.model.lm_head.weight.data.mul_(50)
    return backbone


def gradient(loss: Tensor, inputs: Tensor) -> Tensor:
    return torch.autograd.grad(loss, inputs)[0]


def test_token_losses_are_cross_entropy(backbone: Backbone) -> None:
    hidden = torch.randn(20, 16, requires_grad=True)
    targets = torch.randint(40, (20,))
    own = token_losses(backbone, hidden, targets)
    whole = functional.cross_entropy(backbone.head(hidden), targets, reduction="none")
    torch.testing.assert_close(own, whole)
    torch.testing.assert_close(gradient(own.sum(), hidden), gradient(whole.sum(), hidden))


def test_norms_are_of_all_scores(backbone: Backbone) -> None:
    hidden = torch.randn(20, 16)
    torch.testing.assert_close(
        score_norms(backbone, hidden), backbone.head(hidden).logsumexp(dim=-1)
    )


@pytest.mark.parametrize("blank", [0, 39])
def test_ctc_is_that_over_the_whole_vocabulary(backbone: Backbone, blank: int) -> None:
    # A repeat, a token twice apart, a row with nothing said, and one that does not fit.
    text = torch.tensor([[5, 5, 6, 7], [8, 9, 8, 0], [0, 0, 0, 0], [4, 4, 4, 4]])
    lengths = torch.tensor([4, 3, 0, 4])
    counts = torch.tensor([9, 6, 4, 6])
    tokens = torch.randn(4, 9, 16, requires_grad=True)
    own = ctc_loss(backbone, tokens, counts, text, lengths, blank)
    logs = backbone.head(tokens).log_softmax(dim=-1)
    each = functional.ctc_loss(
        logs.transpose(0, 1),
        text,
        counts,
        lengths,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    assert each[3] == 0
    whole = each.sum() / lengths[:3].sum()
    torch.testing.assert_close(own, whole)
    torch.testing.assert_close(gradient(own, tokens), gradient(whole, tokens))


def test_ctc_without_the_correction_would_be_wrong(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.randn(1, 6, 16, requires_grad=True)
    arguments = (torch.tensor([6]), torch.tensor([[5, 6]]), torch.tensor([2]), 0)
    right = gradient(ctc_loss(backbone, tokens, *arguments), tokens)
    monkeypatch.setattr(vocabulary, "_right_gradient", lambda each, *_: each)
    wrong = gradient(ctc_loss(backbone, tokens, *arguments), tokens)
    assert (right - wrong).abs().max() > 0.01
