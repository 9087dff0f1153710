"""Layers folded into one pass are the layers one after the other."""

import pytest
import torch
from torch import nn

from clbinn.nn.folded import fold
from clbinn.nn.lean import BatchNorm1d
from clbinn.nn.mlp import FanInScale


def normalisation(units=5):
    layer = BatchNorm1d(units, eps=1e-2).eval()
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.1, 3)
    return layer


CHAINS = {
    "nothing": [],
    "relu": [nn.ReLU()],
    "norm": [normalisation()],
    "relu, norm": [nn.ReLU(), normalisation()],
    "norm, relu": [normalisation(), nn.ReLU()],
    "scale, norm, relu, norm, scale": [FanInScale(7), normalisation(), nn.ReLU(), normalisation(), FanInScale(3)],
}


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("layers", CHAINS.values(), ids=CHAINS)
def test_equals_the_layers(layers, before, side_by_side):
    torch.manual_seed(0)
    x, shift = torch.randn(3, 5, 11) * 2, torch.randn(3, 5) if before else None
    scale = 0.4 if before else 1.0
    given = x if shift is None else x * scale + shift.unsqueeze(2)
    expected = torch.stack([nn.Sequential(*layers)(one.T).T for one in given])
    folded = fold(layers, 5)
    memory = x.permute(2, 0, 1).contiguous().permute(1, 2, 0) if side_by_side else x.clone()
    got = folded.apply(memory, folded.numbers(3, scale, None if shift is None else shift.double().numpy()))
    assert got.data_ptr() == memory.data_ptr()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_what_is_no_number_stays_so():
    folded = fold([nn.ReLU(), normalisation()], 5)
    x = torch.full((1, 5, 2), torch.nan)
    assert folded.apply(x, folded.numbers(1)).isnan().all()


def test_other_layers_are_not_folded():
    without = normalisation()
    without.running_mean = without.running_var = None  # the batch's own statistics
    for layers in ([nn.Tanh()], [nn.LayerNorm(5)], [without], [nn.ReLU(), normalisation(), nn.ReLU()]):
        assert fold(layers, 5) is None
