"""Without a CUDA device a computation is called as it is; with one, a graph gives the same."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stream_server.training.corpus import Batch, Corpus
from stream_server.training.graphs import GraphedGradients, Losses
from stream_server.training.losses import Depth

MakeCorpus = Callable[..., Corpus]
CPU = torch.device("cpu")


def computation(weight: nn.Parameter) -> Callable[[Batch, Depth], Losses]:
    """A loss with a gradient that depends on batch, weight and depth."""

    def compute(batch: Batch, depth: Depth) -> dict[str, Tensor]:
        assert weight.grad is not None
        weight.grad.zero_()
        loss = (batch.pcm * weight).square().sum() * (2.0 if depth is Depth.CONDITIONED else 1.0)
        torch.autograd.backward(loss)
        return {"loss": loss.detach()}

    return compute


def weight_on(device: torch.device) -> nn.Parameter:
    weight = nn.Parameter(torch.tensor(0.5, device=device))
    weight.grad = torch.zeros_like(weight)
    return weight


@pytest.mark.parametrize("depth", list(Depth))
def test_without_a_gpu_it_is_the_function_itself(make_corpus: MakeCorpus, depth: Depth) -> None:
    corpus, weight = make_corpus(durations=(1.0,)), weight_on(CPU)
    graphed = GraphedGradients(computation(weight), CPU)
    for seed in (1, 2):
        layout = corpus.draw(random.Random(seed), 0)
        batch = corpus.lay_out(layout)
        losses = graphed(layout.shape, batch, depth)
        power = float(batch.pcm.square().sum()) * (2 if depth is Depth.CONDITIONED else 1)
        assert float(losses["loss"]) == pytest.approx(power * 0.25, rel=1e-4)
        assert weight.grad is not None
        assert float(weight.grad) == pytest.approx(power, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_each_shape_is_captured_once_and_reads_the_batch_and_the_weights(
    make_corpus: MakeCorpus,
) -> None:
    device = torch.device("cuda")
    corpus, weight, calls = make_corpus(), weight_on(device), []
    compute = computation(weight)

    def counted(batch: Batch, depth: Depth) -> Losses:
        calls.append(depth)
        return compute(batch, depth)

    graphed = GraphedGradients(counted, device)
    shapes = set()
    for seed in range(12):
        with torch.no_grad():
            weight.fill_(seed + 1)
        layout = corpus.draw(random.Random(seed), 0)
        here = corpus.lay_out(layout)
        batch = Batch(*(getattr(here, name).to(device) for name in Batch.__slots__))
        depth = list(Depth)[seed % 3]
        losses = graphed(layout.shape, batch, depth)
        power = float(here.pcm.square().sum()) * (2 if depth is Depth.CONDITIONED else 1)
        assert float(losses["loss"]) == pytest.approx(power * (seed + 1) ** 2, rel=1e-3)
        assert weight.grad is not None
        assert float(weight.grad) == pytest.approx(2 * power * (seed + 1), rel=1e-3)
        shapes.add((layout.shape, depth))
    assert len(calls) == 3 * len(shapes), "twice to warm up, once to capture"
