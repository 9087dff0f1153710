import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clbinn.nn import MLP
from clbinn.nn.cnn import lrnet_mnist
from clbinn.nn.lrnet import StochasticConv2d, StochasticLinear, initial_logits, ternary_weight, to_stochastic
from clbinn.optim import LRNet
from clbinn.optim.lrnet import StochasticWeight


def draw(layer, count, generator):
    """Weights drawn one by one from the layer's probabilities."""
    probabilities = torch.sigmoid(layer.weight.detach())
    signs = torch.where(torch.rand(count, *probabilities.shape, generator=generator) < probabilities, 1.0, -1.0)
    if layer.ternary:
        return torch.stack([ternary_weight(sign) for sign in signs])
    return signs


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_pre_activations_have_the_moments_of_weights_drawn_one_by_one(ternary, kind):
    torch.manual_seed(0)
    if kind == "linear":
        layer, x = StochasticLinear(30, 4, ternary), torch.randn(3, 30)
    else:
        layer, x = StochasticConv2d(2, 4, 3, ternary), torch.randn(3, 2, 4, 4)
    layer.weight.data.normal_(0, 1.5)
    count = 4000
    with torch.no_grad():
        ours = torch.stack([layer(x) for _ in range(count)])
        product = F.linear if kind == "linear" else lambda a, w: F.conv2d(a, w, padding=1)
        exact = torch.stack([product(x, w) for w in draw(layer, count, torch.Generator().manual_seed(1))])
    spread = exact.std(0)
    assert bool(((ours.mean(0) - exact.mean(0)).abs() < 6 * spread / count**0.5 + 1e-3).all())
    torch.testing.assert_close(ours.std(0), spread, rtol=0.1, atol=0.02)


def test_outside_training_the_weights_are_used_as_they_are():
    torch.manual_seed(0)
    net = to_stochastic(MLP(6, [5], 2, norm="scale"))
    opt = LRNet(net.parameters(), seed=0)
    x = torch.randn(4, 6)
    first = net.layers[1]
    assert not first.weight.holds_logits
    assert torch.equal(first(x), F.linear(x, opt.mode_weights()[0]))
    with opt.sampled_params():
        assert first.weight.holds_logits
        assert torch.equal(first.weight, opt.logits()[0])
        assert not torch.equal(first(x), first(x))
        net(x).sum().backward()
    with opt.weights(opt.sample_weights()):
        assert torch.equal(first(x), F.linear(x, first.weight))
        assert bool((first.weight.abs() == 1).all())


def test_draws_follow_the_probabilities():
    net = to_stochastic(nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2)), initialise=False)
    net[0].weight.data.copy_(torch.tensor([[-2.0, 0.0, 2.0], [-1.0, 0.5, 1.0]]))
    logits = net[0].weight.detach().clone()
    opt = LRNet(net.parameters(), seed=0)
    draws = torch.stack([opt.sample_weights()[0] for _ in range(3000)])
    torch.testing.assert_close((draws == 1).float().mean(0), torch.sigmoid(logits), rtol=0, atol=0.04)
    assert bool((draws.abs() == 1).all())


@pytest.mark.parametrize("ternary", [False, True])
def test_start_from_a_real_network(ternary):
    weight = torch.tensor([[3.0, -3.0, 0.0, 0.5, -0.1]])
    scaled = (weight / weight.std()).clamp(-1, 1)
    probabilities = torch.sigmoid(initial_logits(weight, ternary))
    if not ternary:
        expected = ((1 + scaled) / 2).clamp(0.05, 0.95)
    else:
        zero = 0.95 - 0.9 * scaled.abs()
        expected = torch.stack([1 - zero, (1 + scaled / (1 - zero)) / 2]).clamp(0.05, 0.95)
    torch.testing.assert_close(probabilities, expected)


def test_conversion_keeps_the_last_layer_and_leaves_the_original_alone():
    net = lrnet_mnist(original=True)
    before = copy.deepcopy(net.state_dict())
    twin = to_stochastic(net)
    kinds = [type(layer).__name__ for layer in twin.layers if isinstance(layer, StochasticConv2d | StochasticLinear)]
    assert kinds == ["StochasticConv2d", "StochasticConv2d", "StochasticLinear"]
    assert isinstance(twin.layers[-1], nn.Linear)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(twin.layers[-1].weight, net.layers[-1].weight)
    halves = torch.sigmoid(to_stochastic(net, initialise=False).layers[0].weight.detach())
    assert bool((halves == 0.5).all())


def test_copies_keep_what_they_hold():
    net = to_stochastic(MLP(6, [5], 2))
    assert copy.deepcopy(net).layers[1].weight.holds_logits
    LRNet(net.parameters())
    twin = copy.deepcopy(net).layers[1].weight
    assert isinstance(twin, StochasticWeight)
    assert not twin.holds_logits


def test_penalties_are_the_gradients_of_their_formulas():
    torch.manual_seed(0)
    net = to_stochastic(nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2)))
    c, c2, decay = 0.3, 0.05, 0.2
    opt = LRNet(net.parameters(), lr=1.0, probability_penalty=c, logit_penalty=c2, weight_decay=decay, betas=(0.0, 0.0))
    theta = opt.logits()[0].clone().requires_grad_()
    real = [p.detach().clone().requires_grad_() for p in net[1].parameters()]
    a = torch.sigmoid(theta)
    (c * (a * (1 - a)).sum() + c2 * theta.square().sum() + decay / 2 * real[0].square().sum()).backward()
    with opt.sampled_params():
        sum((0 * p).sum() for p in net.parameters()).backward()
    opt.step()
    entries = opt.state_dict()["state"]
    torch.testing.assert_close(entries[0]["exp_avg"], theta.grad)
    torch.testing.assert_close(entries[1]["exp_avg"], real[0].grad)
    assert not entries[2]["exp_avg"].any()  # the bias has no penalty


@pytest.mark.parametrize(
    "layer", [nn.Linear(3, 2), nn.Conv2d(1, 2, 3, bias=False), nn.Conv2d(1, 2, 2, bias=False), nn.Conv2d(1, 2, 3)]
)
def test_layers_without_a_twin_are_refused(layer):
    with pytest.raises(ValueError, match=r"'0'.*no stochastic twin"):
        to_stochastic(nn.Sequential(layer, nn.Linear(2, 2)))


def test_a_layer_in_two_places_is_refused():
    tied = nn.Linear(3, 3, bias=False)
    with pytest.raises(ValueError, match="two places, '0' and '2'"):
        to_stochastic(nn.Sequential(tied, nn.ReLU(), tied, nn.Linear(3, 2)))


def test_padding_may_be_a_word_and_must_be_zeros():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding="same", bias=False), nn.Flatten(), nn.Linear(50, 2))
    assert to_stochastic(network)(torch.randn(4, 1, 5, 5)).shape == (4, 2)
    with pytest.raises(ValueError, match="no stochastic twin"):
        to_stochastic(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect", bias=False), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        StochasticConv2d(1, 1, 2)


@pytest.mark.parametrize("weight", [torch.zeros(3, 4), torch.ones(1, 1)])
def test_weights_without_spread_give_finite_logits(weight):
    for ternary in (False, True):
        assert initial_logits(weight, ternary).isfinite().all()


def test_what_a_state_holds_is_seen_and_a_second_optimizer_refused():
    net = to_stochastic(nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)))
    opt = LRNet(net.parameters(), lr=0.1)
    with opt.sampled_params():
        net(torch.randn(8, 5)).sum().backward()
    opt.step()
    fresh = to_stochastic(nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)))
    fresh.load_state_dict(net.state_dict())
    x = torch.randn(6, 5)
    assert torch.equal(fresh(x), net(x))
    with pytest.raises(ValueError, match="another LRNet"):
        LRNet(fresh.parameters())


def test_a_network_without_layers_to_replace_is_refused():
    with pytest.raises(ValueError, match="no linear or convolutional"):
        to_stochastic(nn.Linear(2, 2, bias=False))
    assert to_stochastic(nn.Sequential(nn.Linear(2, 2, bias=False)), keep_last=False)[0].weight.holds_logits


def test_certain_weights_have_finite_gradients():
    layer = StochasticLinear(4, 3)
    layer.weight.data.fill_(200.0)
    layer(torch.randn(2, 4)).sum().backward()
    assert layer.weight.grad.isfinite().all()


def test_a_network_keeps_its_type():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    assert {p.dtype for p in to_stochastic(net).parameters()} == {torch.float64}
