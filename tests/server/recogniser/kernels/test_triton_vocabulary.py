"""The pass over the vocabulary agrees with plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.parametrize("words", [1500, 40_000])
def test_every_figure_of_the_pass(interpret: Callable[[str], None], words: int) -> None:
    interpret(
        f"words = {words}"
        + """
from stream_server.recogniser.kernels import triton_vocabulary as fused
scores, heat, uniform = torch.randn(4, words) * 5, torch.rand(4) * 0.4 + 0.4, torch.rand(4)
got = fused.read_vocabulary(scores, heat, uniform, 30.0, 32)
wanted = plain.read_vocabulary(scores, heat, uniform, 30.0, 32)
assert got.argmax.tolist() == wanted.argmax.tolist()
assert got.sampled.tolist() == wanted.sampled.tolist()
close(got.entropy, wanted.entropy, 1e-4)
close(got.probability, wanted.probability, 1e-4)
assert got.places.sort().values.tolist() == wanted.places.sort().values.tolist()
close(got.weights.sort().values, wanted.weights.sort().values, 1e-4)
table = torch.randn(words, 24)
close(fused.mix_embeddings(table, got.places, got.weights),
      plain.mix_embeddings(table, wanted.places, wanted.weights), 1e-4)
close(fused.spread(scores.clone(), heat, got, 30.0),
      plain.spread(scores.clone(), heat, wanted, 30.0), 1e-4)
"""
    )


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-24])
def test_a_random_number_at_the_edge_draws_a_word(
    interpret: Callable[[str], None], edge: float
) -> None:
    interpret(
        f"edge = {edge}"
        + """
from stream_server.recogniser.kernels import triton_vocabulary as fused
scores = torch.full((1, 1100), -1000.0)
scores[0, 3], scores[0, 1030] = 3.0, 2.5
done = fused.read_vocabulary(scores, torch.tensor([0.1]), torch.tensor([edge]), 1000.0)
assert int(done.sampled[0]) in (3, 1030), done.sampled
"""
    )
