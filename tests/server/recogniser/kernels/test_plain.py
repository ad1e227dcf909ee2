"""The reference operations, each against its definition, written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from stream_server.recogniser.kernels import plain
from stream_server.recogniser.kernels.plain import Place, Rotary

CAP = 5.0


def test_the_pass_over_the_vocabulary() -> None:
    scores = torch.randn(6, 50) * 4
    heat, uniform = torch.rand(6) + 0.4, torch.rand(6)
    done = plain.read_vocabulary(scores, heat, uniform, CAP, top=50)
    capped = torch.tanh(scores / CAP) * CAP
    shares = (capped / heat[:, None]).softmax(-1)
    assert done.argmax.tolist() == scores.argmax(-1).tolist()
    torch.testing.assert_close(done.probability, capped.softmax(-1).amax(-1))
    torch.testing.assert_close(done.entropy, torch.distributions.Categorical(shares).entropy())
    for row in range(6):
        reached = list(itertools.accumulate(shares[row].tolist()))
        passed = next(word for word, total in enumerate(reached) if total > float(uniform[row]))
        assert int(done.sampled[row]) == passed
    assert done.places is not None
    assert done.weights is not None
    whole = torch.zeros_like(shares).scatter(1, done.places, done.weights)
    torch.testing.assert_close(whole, shares)
    torch.testing.assert_close(plain.spread(scores.clone(), heat, done, CAP), shares)
    table = torch.randn(50, 8)
    mixed = plain.mix_embeddings(table, done.places, done.weights)
    torch.testing.assert_close(mixed, shares @ table)


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-24])
def test_a_random_number_at_the_edge_draws_a_word(edge: float) -> None:
    scores = torch.tensor([[-200.0, 3.0, 2.0, -200.0]])
    done = plain.read_vocabulary(scores, torch.ones(1) * 0.1, torch.tensor([edge]), 100.0)
    assert int(done.sampled[0]) in (1, 2)


def test_routing_shares_sum_to_one_before_the_scales() -> None:
    scores, scale = torch.randn(9, 8), torch.rand(8) + 0.5
    chosen, shares = plain.route(scores, scale, 3)
    for token in range(9):
        best = scores[token].topk(3).indices
        assert set(chosen[token].tolist()) == set(best.tolist())
    torch.testing.assert_close((shares / scale[chosen]).sum(1), torch.ones(9))


def test_experts() -> None:
    hidden, up, down = torch.randn(7, 12), torch.randn(5, 20, 12), torch.randn(5, 12, 10)
    chosen = torch.stack([torch.randperm(5)[:2] for _ in range(7)])
    got = plain.run_experts(hidden, chosen, up, down)
    for token in range(7):
        for place, expert in enumerate(chosen[token].tolist()):
            first, second = (up[expert] @ hidden[token]).chunk(2)
            inner = torch.nn.functional.gelu(first, approximate="tanh") * second
            torch.testing.assert_close(
                got[token, place], down[expert] @ inner, rtol=1e-4, atol=1e-4
            )


def test_norms_around_attention_and_experts() -> None:
    def rms(value: torch.Tensor) -> torch.Tensor:
        return value / (value.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    attended, residual, weights = torch.randn(4, 16), torch.randn(4, 16), torch.randn(4, 16)
    hidden, outs, _ = plain.after_attention(attended, residual, weights, 1e-6)
    torch.testing.assert_close(hidden, residual + rms(attended) * weights[0])
    for place in range(3):
        torch.testing.assert_close(outs[place], rms(hidden) * weights[place + 1])
    pairs, shares, scalar = torch.randn(4, 2, 16), torch.rand(4, 2), torch.tensor([0.7])
    after, normed, _ = plain.after_experts(attended, pairs, shares, hidden, weights, scalar, 1e-6)
    mixed = (pairs * shares[..., None]).sum(1)
    joined = rms(attended) * weights[0] + rms(mixed) * weights[1]
    torch.testing.assert_close(after, (hidden + rms(joined) * weights[2]) * scalar)
    torch.testing.assert_close(normed, rms(after) * weights[3])


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_row_attends_to_its_own_keys(is_causal: bool) -> None:
    rows, width, heads, groups, size, capacity = 2, 3, 4, 2, 8, 12
    starts = torch.tensor([0, 0]) if is_causal else torch.tensor([4, 2])
    ends = torch.tensor([3, 2]) if is_causal else torch.tensor([7, 4])
    place = Place(rows, width, heads, torch.tensor([3, 1]), starts, ends, is_causal)
    caches = torch.randn(5, groups, capacity, size), torch.randn(5, groups, capacity, size)
    before = caches[0].clone()
    qkv = torch.randn(rows * width, (heads + 2 * groups) * size)
    angle = torch.rand(capacity, size // 2)
    rotary = Rotary(angle.cos().repeat(1, 2), angle.sin().repeat(1, 2))
    norms = torch.rand(size), torch.rand(size)
    query = plain.rotate(qkv, norms, rotary, caches, place, 1e-6)
    assert torch.equal(caches[0][[0, 2, 4]], before[[0, 2, 4]]), "other slots are untouched"
    assert torch.equal(caches[0][3, :, int(starts[0]) + 3 :], before[3, :, int(starts[0]) + 3 :])
    out = plain.attend(query, caches, place).view(rows, width, heads, size)
    for row in range(rows):
        slot, end = int(place.slots[row]), int(ends[row])
        for at in range(min(width, end - int(starts[row]))):
            for head in range(heads):
                keys = caches[0][slot, head // (heads // groups), :end]
                values = caches[1][slot, head // (heads // groups), :end]
                shares = keys @ query[row, head, at]
                if is_causal:
                    shares = shares.masked_fill(torch.arange(end) > at, -math.inf)
                wanted = shares.softmax(0) @ values
                torch.testing.assert_close(out[row, at, head], wanted, rtol=1e-4, atol=1e-5)
