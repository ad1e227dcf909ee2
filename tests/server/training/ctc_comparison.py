"""Compare the CTC loss of the Triton kernels with PyTorch's; run by ``test_ctc_kernels.py``.

A program of its own: Triton reads TRITON_INTERPRET when the kernels are imported, and keeps to it.
Prints a line of JSON for each shape: the largest differences of losses and of gradients.
"""

from __future__ import annotations

import json
import sys

import torch
from torch.nn import functional

from stream_server.training.ctc import DeviceCtc

SHAPES = ((4, 9, 7, 3), (6, 30, 12, 10), (5, 60, 29, 25))
"""Rows, frames, vocabulary, tokens."""
LARGE = ((64, 350, 320, 95), (64, 350, 29, 300), (400, 50, 320, 15))


def compare(
    device: torch.device, rows: int, frames: int, vocabulary: int, tokens: int
) -> dict[str, float]:
    """Return the largest differences between ours in float32 and PyTorch's in float64."""
    scores = torch.randn(rows, frames, vocabulary, device=device) * 2
    text = torch.randint(1, min(vocabulary, 6), (rows, tokens), device=device)
    lengths = torch.randint(0, tokens + 1, (rows,), device=device)
    counts = torch.randint(max(1, frames // 3), frames + 1, (rows,), device=device)
    counts[0], lengths[0] = frames, tokens
    counts[1], lengths[1] = frames, 0
    counts[3], lengths[3] = 1, min(5, tokens)  # does not fit
    text = text.masked_fill(torch.arange(tokens, device=device) >= lengths[:, None], 0)
    weights = torch.rand(rows, device=device)
    ours = scores.clone().requires_grad_()
    theirs = scores.cpu().double().requires_grad_()
    loss = DeviceCtc.apply(ours.log_softmax(-1), counts, text, lengths)
    expected = functional.ctc_loss(
        theirs.log_softmax(-1).transpose(0, 1),
        text.cpu(),
        counts.cpu(),
        lengths.cpu(),
        reduction="none",
        zero_infinity=True,
    )
    (loss * weights).sum().backward()
    (expected * weights.cpu()).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    return {
        "loss": float((loss.detach().cpu() - expected.detach()).abs().max()),
        "gradient": float((ours.grad.cpu() - theirs.grad).abs().max()),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    place = torch.device(sys.argv[1])
    for shape in SHAPES + (LARGE if place.type == "cuda" else ()):
        print(json.dumps(compare(place, *shape)))
