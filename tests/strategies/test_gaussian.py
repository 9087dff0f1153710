import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn.utils import prune

from clbinn.errors import UserError
from clbinn.strategies._gaussian import Draw, GaussianLinear, gaussian_kl, gaussian_layers, make_gaussian, put_values


def layer(local: bool = False, bias: bool = True, variance: float = 0.04) -> GaussianLinear:
    torch.manual_seed(0)
    return GaussianLinear(nn.Linear(5, 3, bias=bias), Draw(local=local), math.log(variance)).double()


def test_kl_is_that_of_torch_distributions():
    torch.manual_seed(1)
    mean, log_variance, prior_mean, prior_log_variance = torch.randn(4, 7, 2, dtype=torch.float64)
    q = Normal(mean, torch.exp(log_variance / 2))
    p = Normal(prior_mean, torch.exp(prior_log_variance / 2))
    torch.testing.assert_close(
        gaussian_kl(mean, log_variance, prior_mean, prior_log_variance), kl_divergence(q, p).sum()
    )


def test_kl_of_a_layer_counts_weights_and_biases_against_the_first_prior():
    one = layer()
    q = Normal(torch.cat([one.weight.flatten(), one.bias]), math.sqrt(0.04))
    torch.testing.assert_close(one.kl(), kl_divergence(q, Normal(0.0, 1.0)).sum())


def test_carried_prior_leaves_nothing_between_posterior_and_prior():
    one = layer()
    assert one.kl() > 1
    one.carry_prior()
    torch.testing.assert_close(one.kl(), torch.zeros((), dtype=torch.float64))


def test_without_samples_the_layer_is_that_of_the_means():
    one = layer()
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(one(x), nn.functional.linear(x, one.weight, one.bias))


@pytest.mark.parametrize("local", [False, True])
def test_outputs_have_the_moments_of_the_weights(local):
    one = layer(local)
    x = torch.randn(4, 5, dtype=torch.float64)
    with one.draw.of(40_000, torch.Generator().manual_seed(0)):
        out = one(x).view(40_000, 4, 3)
    torch.testing.assert_close(out.mean(0), nn.functional.linear(x, one.weight, one.bias), atol=0.02, rtol=0)
    variance = 0.04 * (x.square().sum(1, keepdim=True) + 1)
    torch.testing.assert_close(out.var(0), variance.expand(4, 3), atol=0, rtol=0.05)


def test_weight_samples_are_shared_by_the_rows_and_local_noise_is_not():
    x = torch.ones(2, 5, dtype=torch.float64)
    for local in (False, True):
        one = layer(local)
        with one.draw.of(3, torch.Generator().manual_seed(0)):
            out = one(x).view(3, 2, 3)
        assert torch.allclose(out[:, 0], out[:, 1]) is not local


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(4, 5), (4, 2, 5)])
def test_rows_given_once_are_as_rows_given_for_each_sample(local, bias, shape):
    one = layer(local, bias)
    x = torch.randn(shape, dtype=torch.float64)
    outs = []
    for given, folded in ((x, False), (torch.cat([x] * 3), True)):
        with one.draw.of(3, torch.Generator().manual_seed(0), folded):
            outs.append(one(given))
    torch.testing.assert_close(*outs)


def test_positions_of_a_sample_share_its_weights():
    one = layer()
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    outs = []
    for given in (x, x[:, 0], x[:, 1]):
        with one.draw.of(3, torch.Generator().manual_seed(0)):
            outs.append(one(given))
    torch.testing.assert_close(outs[0], torch.stack(outs[1:], 1))


def test_gradients_are_those_of_a_loop_over_samples():
    one = layer()
    x = torch.randn(4, 5, dtype=torch.float64)
    with one.draw.of(3, torch.Generator().manual_seed(0)):
        one(x).square().sum().backward()
    got = {name: p.grad.clone() for name, p in one.named_parameters()}
    one.zero_grad()

    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 3, 5, generator=generator, dtype=torch.float64)
    biases = torch.randn(3, 1, 3, generator=generator, dtype=torch.float64)
    for s in range(3):
        weight = one.weight + one.weight_log_variance.exp().sqrt() * weights[s]
        bias = one.bias + one.bias_log_variance.exp().sqrt() * biases[s, 0]
        (x @ weight.t() + bias).square().sum().backward()
    for name, p in one.named_parameters():
        torch.testing.assert_close(got[name], p.grad)


def test_the_draw_is_over_after_the_block_also_after_an_error():
    draw = Draw()
    with pytest.raises(ZeroDivisionError), draw.of(3, None, True):
        raise ZeroDivisionError
    assert (draw.samples, draw.folded) == (0, False)


def test_a_network_keeps_its_weights_as_means():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2)))
    before = [net[0].weight, net[0].bias, net[2][0].weight, net[2][0].bias]
    made = make_gaussian(net, Draw(), -6.0, 1.0)
    assert [mean for one in gaussian_layers(made).values() for _, mean in one.means()] == before
    assert make_gaussian(made, Draw(), -6.0, 1.0)[0] is made[0]


def test_learned_normalisation_is_refused():
    with pytest.raises(UserError, match="BatchNorm1d has parameters too"):
        make_gaussian(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), Draw(), -6.0, 1.0)


def test_a_weight_that_is_made_of_others_is_refused():
    with pytest.raises(UserError, match="ParametrizedLinear has parameters too"):
        make_gaussian(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))), Draw(), -6.0, 1.0)
    pruned = prune.random_unstructured(nn.Linear(4, 3), "weight", 0.5)
    with pytest.raises(UserError, match=r"Linear has parameters too \(bias, weight_orig\)"):
        make_gaussian(pruned, Draw(), -6.0, 1.0)


def test_values_go_into_the_leading_part():
    small, large = nn.Linear(3, 2), nn.Linear(3, 4)
    tail = large.weight[2:].clone()
    put_values(large, small.state_dict())
    assert torch.equal(large.weight[:2], small.weight)
    assert torch.equal(large.weight[2:], tail)
