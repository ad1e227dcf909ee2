"""Counted noise is even, and depends on nothing but seed and place."""

from __future__ import annotations

import torch

from stream_server.recogniser.kernels.noise import count_noise


def test_a_row_has_its_own_noise_whatever_the_batch() -> None:
    seeds = torch.tensor([5, -9, 2**62])
    uniform, tokens = count_noise(seeds, 40, 1000)
    for row in range(3):
        alone = count_noise(seeds[row : row + 1], 24, 1000)
        assert torch.equal(alone[0][0], uniform[row, :24])
        assert torch.equal(alone[1][0], tokens[row, :24])


def test_it_is_even_and_differs_from_seed_to_seed() -> None:
    uniform, tokens = count_noise(torch.arange(500), 64, 262_144)
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.005
    assert abs(float(uniform.var()) - 1 / 12) < 0.002
    assert len(tokens.unique()) > 0.9 * tokens.numel()
    assert int(tokens.min()) >= 0
    assert int(tokens.max()) < 262_144
    neighbours = torch.corrcoef(torch.stack([uniform[:-1].flatten(), uniform[1:].flatten()]))
    assert abs(float(neighbours[0, 1])) < 0.02


def test_the_mixing_is_splitmix64() -> None:
    """Checked against the algorithm in Python's integers."""

    def mix(state: int) -> int:
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    golden = 0x9E3779B97F4A7C15
    key = mix(7 * golden % 2**64)
    drawn = [mix((key + (place + 1) * golden) % 2**64) for place in range(5)]
    uniform, tokens = count_noise(torch.tensor([7]), 5, 1000)
    assert uniform[0].tolist() == [(each >> 40) / 2**24 for each in drawn]
    assert tokens[0].tolist() == [(each & 0xFFFFFFFF) * 1000 >> 32 for each in drawn]
