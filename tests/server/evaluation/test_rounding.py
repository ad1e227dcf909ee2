"""Float8 on any device: the layers are rounded, what surrounds them is not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from stream_server.evaluation.rounding import round_rows, round_to_float8, rounded_experts
from stream_server.recogniser.checkpoint import EMBEDDED, load_model
from stream_server.recogniser.decoder import dense_experts
from stream_server.recogniser.model import TranscriptionModel


@pytest.fixture
def model() -> TranscriptionModel:
    return load_model(EMBEDDED)[0]


def test_rounding_twice_changes_nothing_more() -> None:
    values = torch.randn(3, 4, 64)
    once = round_rows(values)
    assert 0.005 < float((once - values).norm() / values.norm()) < 0.05
    torch.testing.assert_close(round_rows(once), once, rtol=1e-5, atol=0)
    # A row has a scale of its own: a loud neighbour does not drown it.
    values[0, 0] *= 1e-6
    assert torch.equal(round_rows(values)[0, 1:], once[0, 1:])
    assert float(round_rows(values)[0, 0].abs().sum()) > 0


@pytest.mark.model
def test_the_layers_are_rounded_and_nothing_else(model: TranscriptionModel) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count = round_to_float8(model)
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    parts = ("_proj.weight", "experts.gate_up_proj", "experts.down_proj")
    assert all(".layers." in name and name.endswith(parts) for name in changed), changed
    assert count >= 8 * len(model.decoder.model.model.decoder.layers)
    assert {"q_proj", "o_proj", "up_proj", "experts"} <= {
        part for name in changed for part in name.split(".")
    }


@pytest.mark.model
@torch.inference_mode()
def test_experts_err_by_what_rounding_takes(model: TranscriptionModel) -> None:
    experts = model.decoder.model.model.decoder.layers[0].experts
    hidden = torch.randn(7, model.decoder.hidden_size)
    chosen = torch.tensor([[0, 1]] * 7)
    shares = torch.rand(7, 2)
    exact = dense_experts(experts, hidden, chosen, shares)
    rough = rounded_experts(experts, hidden, chosen, shares)
    assert 0.001 < float((rough - exact).norm() / exact.norm()) < 0.1


@pytest.mark.model
@torch.inference_mode()
def test_what_is_heard_is_about_the_same(
    model: TranscriptionModel, voice: Callable[..., torch.Tensor]
) -> None:
    rough = copy.deepcopy(model)
    round_to_float8(rough)
    pcm = torch.as_tensor(voice(2.0))[None]
    lengths, languages = torch.tensor([pcm.shape[1]]), torch.tensor([3])
    keys = [each.hear(pcm, lengths, languages)[0].keys[-1] for each in (model, rough)]
    change = float((keys[1] - keys[0]).norm() / keys[0].norm())
    assert 0.001 < change < 0.2, change
