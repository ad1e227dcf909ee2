"""CTC loss that a CUDA graph can hold.

Connectionist Temporal Classification is Graves et al., 2006. PyTorch's own CUDA version reads the
lengths on the host, which a graph cannot capture. This one keeps everything on the device: one
Triton program a row walks the frames forwards and backwards and leaves the posterior of each state;
the gradient is its sum over the states of a class. On a CPU, PyTorch's own loss is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_NEVER = -1e30
"""Logarithm of what cannot be: finite, so that sums of it stay numbers."""


def _kernels() -> tuple[Any, Any]:
    # Triton comes with PyTorch's CUDA builds alone.
    from stream_server.training import ctc_kernels

    return ctc_kernels.forward_kernel, ctc_kernels.backward_kernel


def _states(text: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes of the states [rows, 2 * tokens + 1], and which may be skipped into."""
    rows, width = text.shape
    classes = torch.zeros(rows, 2 * width + 1, dtype=torch.int32, device=text.device)
    classes[:, 1::2] = text.int()
    skips = torch.zeros_like(classes)
    skips[:, 3::2] = (text[:, 1:] != text[:, :-1]).int()
    return classes, skips


class DeviceCtc(torch.autograd.Function):
    """The loss of each row, on the device."""

    @staticmethod
    def forward(ctx: Any, logs: Tensor, counts: Tensor, text: Tensor, lengths: Tensor) -> Tensor:
        forward_kernel, backward_kernel = _kernels()
        logs = logs.contiguous()
        rows, frames, vocabulary = logs.shape
        classes, skips = _states(text)
        width = classes.shape[1]
        block = max(16, 1 << (width - 1).bit_length())
        warps = max(1, min(8, block // 128))
        # Two columns of what cannot be stand before the first state of each frame.
        scores = torch.full((rows, frames, block + 2), _NEVER, device=logs.device)
        totals = torch.empty(rows, device=logs.device)
        common = (logs, classes, skips, counts.int(), lengths.int(), scores, totals)
        sizes = {"frames": frames, "vocabulary": vocabulary, "width": width, "block": block}
        forward_kernel[(rows,)](*common, **sizes, num_warps=warps)
        posteriors = torch.zeros(rows, frames, width, device=logs.device)
        following = torch.full((rows, 2, block + 2), _NEVER, device=logs.device)
        backward_kernel[(rows,)](*common, posteriors, following, **sizes, num_warps=warps)
        gradient = torch.zeros_like(logs).scatter_add_(
            2, classes.long()[:, None].expand(rows, frames, width), posteriors.neg_()
        )
        possible = totals > _NEVER / 10
        ctx.save_for_backward(gradient.masked_fill_(~possible[:, None, None], 0.0))
        return totals.neg().masked_fill(~possible, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0][:, None, None], None, None, None


def ctc_loss(logs: Tensor, counts: Tensor, text: Tensor, text_lengths: Tensor) -> Tensor:
    """Return the mean CTC loss of a text token, in nats.

    Args:
        logs: [rows, frames, vocabulary], log-probabilities in float32; blank is 0.
        counts: [rows], frames of each row.
        text: [rows, tokens], padded with 0.
        text_lengths: [rows]; a row whose text does not fit into its frames adds nothing.
    """
    each: Tensor
    if logs.is_cuda:
        apply: Callable[..., Tensor] = DeviceCtc.apply
        each = apply(logs, counts, text, text_lengths)
    else:
        each = functional.ctc_loss(
            logs.transpose(0, 1), text, counts, text_lengths, reduction="none", zero_infinity=True
        )
    return each.sum() / text_lengths.sum().clamp(min=1)


__all__ = ["DeviceCtc", "ctc_loss"]
