import pytest
import torch
from torch import nn

from clbinn.nn import MLP


def layers(net):
    return [type(layer).__name__ for layer in net.layers]


def test_table_12_layer_by_layer():
    net = MLP(784, [100, 100], 10)
    hidden = ["Linear", "ReLU", "BatchNorm1d"]
    assert layers(net) == ["Flatten", *hidden, *hidden, "Linear", "BatchNorm1d"]
    assert sum(p.numel() for p in net.parameters()) == 784 * 100 + 100 * 100 + 100 * 10


def test_table_5_layer_by_layer():
    net = MLP(784, [2048] * 3, 10, dropout=0.2)
    hidden = ["Dropout", "Linear", "ReLU", "BatchNorm1d"]
    assert layers(net) == ["Flatten", *hidden * 3, "Dropout", "Linear", "BatchNorm1d"]
    assert sum(p.numel() for p in net.parameters()) == 784 * 2048 + 2 * 2048**2 + 2048 * 10
    assert {layer.p for layer in net.layers if isinstance(layer, nn.Dropout)} == {0.2}


def test_the_authors_order():
    assert layers(MLP(4, [3], 2, order="norm_relu")) == [
        "Flatten",
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Linear",
        "BatchNorm1d",
    ]


def test_scale_divides_by_the_root_of_the_fan_in_and_does_nothing_else():
    net = MLP(9, [4], 2, norm="scale")
    first, second = (p.detach() for p in net.parameters())
    x = torch.randn(5, 9)
    expected = torch.relu(x @ first.T / 3) @ second.T / 2
    torch.testing.assert_close(net(x).detach(), expected)


@pytest.mark.parametrize(("norm", "last"), [("batch", "BatchNorm1d"), ("layer", "LayerNorm"), ("scale", "FanInScale")])
def test_the_output_can_stay_as_it_is(norm, last):
    assert layers(MLP(4, [3], 2, norm=norm))[-1] == last
    assert layers(MLP(4, [3], 2, norm=norm, norm_output=False))[-1] == "Linear"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "group"}, "norm must be one of batch, layer, scale, none"),
        ({"order": "relu"}, "order must be one of"),
        ({"activation": "gelu"}, "activation must be one of relu, tanh"),
        ({"hidden": [0]}, "layer sizes must be at least 1"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        MLP(4, options.pop("hidden", [3]), 2, **options)


def test_normalisation_has_the_authors_settings():
    norms = [module for module in MLP(4, [3], 2).layers if isinstance(module, nn.BatchNorm1d)]
    assert [(norm.momentum, norm.eps, norm.affine) for norm in norms] == [(0.15, 1e-4, False)] * 2


def test_scale_stands_before_tanh():
    net = MLP(9, [4], 2, norm="scale", activation="tanh", norm_output=False)
    x = torch.randn(5, 9)
    w1, w2 = net.parameters()
    torch.testing.assert_close(net(x), torch.tanh(x @ w1.T / 3) @ w2.T)
