"""Local reparameterisation against sampled weights."""

import torch

from clbinn.nn import MLP, MeanFieldLinear


def test_pre_activations_have_the_moments_of_sampled_weights():
    torch.manual_seed(0)
    layer = MeanFieldLinear(50, 1, bias=False)
    layer.weight.data = torch.rand(1, 50) * 2 - 1
    x = torch.randn(1, 50)
    drawn = layer(x.expand(20_000, 50)).detach()
    weights = torch.where(torch.rand(20_000, 50) < (1 + layer.weight) / 2, 1.0, -1.0)
    sampled = weights @ x[0]
    assert abs(drawn.mean() - sampled.mean()) < 0.2
    assert abs(drawn.std() / sampled.std() - 1) < 0.03


def test_every_input_has_a_draw_of_its_own():
    layer = MeanFieldLinear(5, 3, bias=False)
    layer.weight.data.zero_()
    assert len(layer(torch.ones(4, 5)).unique()) == 12


def test_evaluation_is_the_plain_product():
    layer = MeanFieldLinear(5, 3).eval()
    x = torch.randn(4, 5)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_an_mlp_can_be_made_of_them():
    net = MLP(6, [5], 2, norm="scale", mean_field=True)
    assert sum(isinstance(m, MeanFieldLinear) for m in net.modules()) == 2
    assert not torch.equal(net(torch.ones(1, 6)), net(torch.ones(1, 6)))


def test_certain_weights_have_finite_gradients():
    layer = MeanFieldLinear(4, 3, bias=False)
    layer.weight.data.fill_(1.0)
    layer(torch.randn(2, 4)).sum().backward()
    assert layer.weight.grad.isfinite().all()
