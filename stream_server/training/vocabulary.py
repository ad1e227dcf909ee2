"""Losses over a vocabulary of 262,144 that never hold all of its scores at once.

Scores of one position are 1 MB in float32, and a loss keeps several copies for its gradient.
Positions therefore go through the frozen head in slices that are computed again in the backward
pass, and CTC takes only the columns of the blank and of the row's own tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from stream_server.recogniser.backbone import Backbone

SLICE = 256
"""Positions whose scores are held at once: about 2 GB with their gradients at full size."""


def token_losses(backbone: Backbone, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of each position.

    Args:
        backbone: whose head is used.
        hidden: [positions, hidden].
        targets: [positions].
    """

    def part(states: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy(backbone.head(states), wanted, reduction="none")

    slices = zip(torch.split(hidden, SLICE), torch.split(targets, SLICE), strict=True)
    return torch.cat(
        [checkpoint(part, states, wanted, use_reentrant=False) for states, wanted in slices]
    )


def score_norms(backbone: Backbone, hidden: Tensor) -> Tensor:
    """Return the logarithm of the sum of exponentials of each position's scores, [positions]."""

    def part(states: Tensor) -> Tensor:
        return backbone.head(states).logsumexp(dim=-1)

    return torch.cat(
        [checkpoint(part, states, use_reentrant=False) for states in torch.split(hidden, SLICE)]
    )


def ctc_loss(
    backbone: Backbone,
    tokens: Tensor,
    counts: Tensor,
    text: Tensor,
    text_lengths: Tensor,
    blank: int,
) -> Tensor:
    """Mean CTC loss of a text token of the rows that fit into their frames, through the head.

    Args:
        backbone: whose head is used.
        tokens: [rows, frames, hidden], audio tokens.
        counts: [rows], frames of each row.
        text: [rows, tokens]; what lies behind a row's length is ignored.
        text_lengths: [rows].
        blank: its token.
    """
    rows, frames, size = tokens.shape
    states = tokens.to(backbone.dtype)
    norms = score_norms(backbone, states.reshape(-1, size)).view(rows, frames)
    wanted = functional.pad(text, (1, 0), value=blank)
    columns = backbone.model.lm_head.weight[wanted]
    cap: float = backbone.model.final_logit_softcapping
    scores = torch.tanh((states @ columns.transpose(1, 2)).float() / cap) * cap
    logs = scores - norms[..., None]
    # A token that comes twice in a row's text is one class: the first of its columns.
    classes = (text[:, :, None] == text[:, None, :]).int().argmax(dim=2) + 1
    each = functional.ctc_loss(
        logs.transpose(0, 1), classes, counts, text_lengths, reduction="none", zero_infinity=True
    )
    fits = _fits(classes, counts, text_lengths)
    each = _right_gradient(each, logs, counts, fits)
    return each.sum() / (text_lengths * fits).sum().clamp(min=1)


def _fits(classes: Tensor, counts: Tensor, text_lengths: Tensor) -> Tensor:
    """Return which rows have frames enough for their text, [rows]; the others have no loss."""
    place = torch.arange(classes.shape[1] - 1, device=classes.device)[None]
    twice = (classes[:, 1:] == classes[:, :-1]) & (place < text_lengths[:, None] - 1)
    return counts >= text_lengths + twice.sum(dim=1)


def _right_gradient(each: Tensor, logs: Tensor, counts: Tensor, fits: Tensor) -> Tensor:
    """Take out of the gradient of PyTorch's CTC what holds for whole distributions only.

    Its backward gives each class its probability less its occupancy. The first term comes to
    nothing where all classes are there, since their log-probabilities are normalised; here most
    are not, and it has to go. The value is unchanged.
    """
    inside = torch.arange(logs.shape[1], device=logs.device)[None] < counts[:, None]
    term = (logs.detach().exp() * logs * inside[..., None]).sum(dim=(1, 2)) * fits
    return each - (term - term.detach())


__all__ = ["SLICE", "ctc_loss", "score_norms", "token_losses"]
