import pytest
import torch
from torch import nn

from clbinn.errors import RecipeError
from clbinn.nn.build import build_model
from clbinn.nn.cnn import CNN, lrnet_cifar10, lrnet_mnist, table8
from clbinn.schema import ModelSpec


def names(net):
    return [type(layer).__name__ for layer in net.layers]


def counts(net):
    return [p.numel() for p in net.parameters()]


CONV, FULL = ["Conv2d", "ReLU", "BatchNorm2d"], ["Linear", "ReLU", "BatchNorm1d"]
POOLED = ["Conv2d", "ReLU", "MaxPool2d", "BatchNorm2d"]


@pytest.mark.parametrize("classes", [10, 100])
def test_table_8_layer_by_layer(classes):
    net = table8((3, 32, 32), classes)
    assert names(net) == [*(3 * (CONV + POOLED)), "Flatten", *FULL, *FULL, "Linear", "BatchNorm1d"]
    convolutions = [9 * a * b for a, b in ((3, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512))]
    assert counts(net) == [*convolutions, 512 * 4 * 4 * 1024, 1024 * 1024, 1024 * classes]
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, classes)


def test_lrnet_networks_layer_by_layer():
    mnist = lrnet_mnist()
    assert names(mnist) == [*POOLED, *POOLED, "Flatten", *FULL, "Linear", "BatchNorm1d"]
    assert counts(mnist) == [25 * 32, 25 * 32 * 64, 64 * 7 * 7 * 512, 5120]
    cifar = lrnet_cifar10()
    assert names(cifar) == [*(3 * (CONV + POOLED)), "Flatten", *FULL, "Linear", "BatchNorm1d"]
    assert sum(counts(cifar)) == 9 * (3 * 128 + 128**2 + 128 * 256 + 256**2 + 256 * 512 + 512**2) + 8192 * 1024 + 10240
    assert mnist(torch.zeros(2, 1, 28, 28)).shape == cifar(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_lrnets_own_network_learns_its_normalisation_and_keeps_a_real_last_layer():
    net = lrnet_mnist(original=True)
    pooled = ["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"]
    assert names(net) == [*pooled, *pooled, "Flatten", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    assert counts(net) == [800, 32, 32, 51200, 64, 64, 64 * 49 * 512, 512, 512, 5120, 10]


def test_the_authors_order():
    net = table8(order="norm_relu")
    assert names(net)[:7] == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"]


def test_no_gain_and_bias_and_the_momentum():
    norms = [layer for layer in table8().layers if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d)]
    assert all(not list(norm.parameters()) for norm in norms)
    assert [norm.momentum for norm in norms] == [0.2] * 6 + [0.1] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CNN((784,), 10), "channels, height, width"),
        (lambda: CNN((3, 4, 4), 10), "too small"),
        (lambda: CNN((3, 32, 32), 10, order="other"), "order"),
        (lambda: CNN((3, 32, 32), 10, kernel_size=4), "odd"),
        (lambda: CNN((3, 32, 32), 10, last="bais"), "last must be norm or bias"),
        (lambda: CNN((3, 32, 32), 10, dropout=1.0), r"dropout must be in \[0, 1\)"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_recipes_know_the_networks():
    build = build_model
    assert counts(build(ModelSpec(kind="cnn"), (3, 32, 32), 100)) == counts(table8((3, 32, 32), 100))
    original = build(ModelSpec(kind="lrnet_mnist", original=True, stochastic="ternary"), (1, 28, 28), 10)
    assert [type(layer).__name__ for layer in original.layers].count("StochasticConv2d") == 2
    with pytest.raises(RecipeError, match=r"model\.stochastic: .*expects"):
        build(ModelSpec(kind="lrnet_cifar10", stochastic="other"), (3, 32, 32), 10)
