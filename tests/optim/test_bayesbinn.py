"""BayesBiNN against a literal reference from the equations, and against an enumerated posterior."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from clbinn.nn import MLP, MeanFieldLinear
from clbinn.optim import BayesBiNN
from clbinn.optim._noise import Noise


def literal_step(net, natural, prior, x, y, uniforms, *, n, lr, tau, beta, weight, eps, momentum, t):
    """Algorithm 1 with momentum, one parameter after the other, nothing in place, averaged over samples."""
    total = [torch.zeros_like(v) for v in natural]
    params = list(net.parameters())
    for noise in uniforms:
        relaxed = [
            torch.tanh((v + (0.5 * torch.log(u / (1 - u))).to(v.dtype)) / tau)
            for v, u in zip(natural, noise, strict=True)
        ]
        for p, w in zip(params, relaxed, strict=True):
            p.data = w.clone()
        grads = torch.autograd.grad(cross_entropy(net(x), y), params)
        for k, (g, w, v) in enumerate(zip(grads, relaxed, natural, strict=True)):
            mu = torch.tanh(v)
            scale = n * (1 - w**2 + eps) / (tau * (1 - mu**2 + eps))
            total[k] = total[k] + scale * g / len(uniforms)
    for k, (v, v0) in enumerate(zip(natural, prior, strict=True)):
        momentum[k] = beta * momentum[k] + (1 - beta) * (total[k] + weight * (v - v0))
        natural[k] = v - lr * momentum[k] / (1 - beta**t)


@pytest.mark.parametrize(
    ("samples", "beta", "weight", "tau", "lr", "dtype", "tolerance"),
    [
        (1, 0.0, 1.0, 1e-2, 1e-4, torch.float64, 1e-6),
        (1, 0.0, 1.0, 0.5, 1e-3, torch.float32, 1e-3),
        (1, 0.0, 1.0, 0.5, 0.02, torch.float64, 1e-6),
        (3, 0.9, 1.0, 1.0, 0.02, torch.float64, 1e-6),
        (2, 0.0, 0.3, 0.7, 0.02, torch.float64, 1e-6),
    ],
)
def test_walks_with_the_literal_reference_for_100_steps(samples, beta, weight, tau, lr, dtype, tolerance):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    reference = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    prior = [torch.randn_like(p) for p in net.parameters()]
    options = {"lr": lr, "temperature": tau, "momentum": beta, "prior_weight": weight, "eps": 1e-10}
    opt = BayesBiNN(net.parameters(), 40, init_natural=1.0, prior_natural=prior, num_samples=samples, seed=3, **options)
    stream = Noise(3)
    sizes = [p.numel() for p in net.parameters()]
    signs = stream.signs(sum(sizes), dtype).split(sizes)
    natural = [s.view_as(p).clone() for s, p in zip(signs, net.parameters(), strict=True)]
    momentum = [torch.zeros_like(v) for v in natural]
    for t in range(1, 101):
        x, y = torch.randn(8, 6, dtype=dtype), torch.randint(3, (8,))
        uniforms = []
        for _ in range(samples):
            logits = [stream.logit(torch.empty(v.numel(), dtype=dtype)).view_as(v) for v in natural]
            uniforms.append([torch.sigmoid(logit.double()) for logit in logits])
            with opt.sampled_params():
                cross_entropy(net(x), y).backward()
        opt.step()
        literal_step(
            reference, natural, prior, x, y, uniforms,
            n=40, lr=lr, tau=tau, beta=beta, weight=weight, eps=1e-10, momentum=momentum, t=t,
        )  # fmt: skip
        for mine, other in zip(opt.natural_parameters(), natural, strict=True):
            assert torch.allclose(mine, other, rtol=tolerance, atol=tolerance), f"step {t}"


def two_weights():
    """A regression with two binary weights: inputs, targets, prior, and λ of the exact mean-field posterior.

    Two weights have four states, so E_q[Σℓ] is a sum of four terms; the fixed point λ = λ0 - ∂E_q[Σℓ]/∂μ is solved
    by iteration.
    """
    x = torch.tensor([[1.0, 0.5], [0.3, -1.0], [0.8, 0.9], [-0.5, 0.7]], dtype=torch.float64)
    y = torch.tensor([0.9, 0.4, 1.2, 0.2], dtype=torch.float64)
    states = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)], dtype=torch.float64)
    losses = 0.5 * (y - states @ x.T).square().sum(1)
    prior = torch.tensor([0.2, -0.1], dtype=torch.float64)
    natural = torch.zeros(2, dtype=torch.float64)
    for _ in range(500):
        mean = natural.tanh().requires_grad_()
        q = ((1 + states * mean) / 2).prod(1)
        (gradient,) = torch.autograd.grad((q * losses).sum(), mean)
        natural = (0.9 * natural + 0.1 * (prior - gradient)).detach()
    return x, y, prior, natural


def average_natural(loss, opt, steps, first):
    """λ averaged over independent copies of the problem and over the steps from `first` on."""
    tail = []
    for step in range(steps):
        with opt.sampled_params():
            loss().backward()
        opt.step()
        if step >= first:
            tail.append(opt.natural_parameters()[0].mean(0))
    return torch.stack(tail).mean(0)


def test_finds_the_mean_field_posterior_of_two_weights_by_enumeration():
    x, y, prior, natural = two_weights()
    weight = nn.Parameter(torch.empty(3000, 2, dtype=torch.float64))  # copies: their mean has little noise
    options = {"init_natural": 0.0, "prior_natural": [prior.expand(3000, 2)], "seed": 0}
    opt = BayesBiNN([weight], 4, lr=0.02, temperature=0.05, **options)
    found = average_natural(lambda: (0.5 * (y - weight @ x.T).square().mean(1)).sum(), opt, 900, 300)
    assert torch.allclose(found, natural, atol=0.15)  # the relaxation has a bias, smaller at smaller temperatures


def test_local_reparameterisation_finds_it_too():
    """A squared loss needs only mean and variance of the output, so the normal draws are exact here."""
    torch.manual_seed(0)
    x, y, prior, natural = two_weights()
    layer = MeanFieldLinear(2, 400, bias=False).double()
    options = {"init_natural": 0.0, "prior_natural": [prior.expand(400, 2)], "seed": 0}
    opt = BayesBiNN(layer.parameters(), 4, lr=0.01, training_weights="mean", **options)
    found = average_natural(lambda: (0.5 * (y - layer(x).T).square().mean(1)).sum(), opt, 900, 450)
    assert torch.allclose(found, natural, atol=0.05)
    assert (layer.weight.abs() == 1).all()


def test_prior_is_carried_bit_for_bit_and_natural_goes_on():
    net = MLP(4, [3], 2)
    opt = BayesBiNN(net.parameters(), 10, seed=0)
    before = [v.clone() for v in opt.natural_parameters()]
    opt.carry_prior()
    for prior, old, now in zip(opt.prior_natural_parameters(), before, opt.natural_parameters(), strict=True):
        assert torch.equal(prior, old)
        assert torch.equal(now, old)
    assert opt.kl_divergence() == pytest.approx(0, abs=1e-5)


def test_closure_draws_the_samples_itself():
    net, x, y = MLP(4, [3], 2, norm="layer"), torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 1])
    opt = BayesBiNN(net.parameters(), 5, num_samples=4, temperature=1.0, seed=0)
    calls = []

    def closure():
        loss = cross_entropy(net(x), y)
        loss.backward()
        calls.append(loss.item())
        return loss.detach()

    assert float(opt.step(closure)) == pytest.approx(sum(calls) / 4)
    assert len(calls) == 4


@pytest.mark.parametrize("init", [10.0, 0.0])
def test_initial_natural_parameters(init):
    opt = BayesBiNN(MLP(50, [40], 2).parameters(), 1, init_natural=init, seed=0)
    flat = torch.cat([v.flatten() for v in opt.natural_parameters()])
    assert set(flat.abs().tolist()) == {init}
    assert abs(flat.sign().mean().item()) < 0.1


def test_given_initial_and_prior_tensors_are_taken_as_they_are():
    net = nn.Linear(2, 2, bias=False)
    given = torch.tensor([[0.5, -2.0], [0.0, 1.0]])
    opt = BayesBiNN(net.parameters(), 1, init_natural=[given], prior_natural=[-given])
    assert torch.equal(opt.natural_parameters()[0], given)
    assert torch.equal(opt.prior_natural_parameters()[0], -given)
    assert net.weight.tolist() == [[1, -1], [1, 1]]
    with pytest.raises(ValueError, match="init_natural needs one tensor per parameter"):
        BayesBiNN(net.parameters(), 1, init_natural=[given[:1]])


@pytest.mark.parametrize("value", [3, np.float32(3), torch.tensor(3.0)])
def test_a_number_may_be_of_any_kind(value):
    opt = BayesBiNN(nn.Linear(2, 2).parameters(), 1, init_natural=value, prior_natural=value)
    assert all((v.abs() == 3).all() for v in opt.natural_parameters())
    assert all((v == 3).all() for v in opt.prior_natural_parameters())


@pytest.mark.parametrize("value", ["10", None])
@pytest.mark.parametrize("name", ["init_natural", "prior_natural"])
def test_what_is_neither_number_nor_tensors_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number or one tensor per parameter, got {value!r}"):
        BayesBiNN(nn.Linear(2, 2).parameters(), 1, **{name: value})


def test_a_parameter_without_gradient_keeps_its_posterior():
    net = nn.ModuleList([nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)])
    opt = BayesBiNN(net.parameters(), 10, lr=0.5, temperature=1.0, init_natural=2.0, seed=0)
    used, unused = (v.clone() for v in opt.natural_parameters())
    with opt.sampled_params():
        net[0](torch.ones(1, 3)).square().sum().backward()
    opt.step()
    assert not torch.equal(opt.natural_parameters()[0], used)
    assert torch.equal(opt.natural_parameters()[1], unused)


def test_a_grown_parameter_carries_its_old_rows():
    old = nn.Linear(3, 2, bias=False)
    opt = BayesBiNN(old.parameters(), 10, init_natural=[torch.arange(6.0).view(2, 3) + 1], prior_natural=7.0, seed=0)
    new = nn.Linear(3, 4, bias=False)
    opt.set_parameters([new.weight], {new.weight: old.weight})
    (natural,), (prior,) = opt.natural_parameters(), opt.prior_natural_parameters()
    assert torch.equal(natural[:2], torch.arange(6.0).view(2, 3) + 1)
    assert torch.equal(prior[:2], torch.full((2, 3), 7.0))
    assert (new.weight.abs() == 1).all()


def test_samples_follow_the_posterior():
    net = nn.Linear(1, 1, bias=False)
    opt = BayesBiNN(net.parameters(), 1, init_natural=[torch.full((1, 1), 0.3)], seed=0)
    draws = torch.stack([opt.sample_weights()[0] for _ in range(4000)])
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    assert (draws > 0).float().mean().item() == pytest.approx(1 / (1 + math.exp(-0.6)), abs=0.03)


def test_noise_is_logistic_finite_and_its_own():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    delta = Noise(5).logit(torch.empty(200_000)) / 2
    assert torch.equal(torch.get_rng_state(), state)
    assert delta.isfinite().all()
    assert delta.mean().item() == pytest.approx(0, abs=0.01)
    assert delta.var().item() == pytest.approx(math.pi**2 / 12, abs=0.02)
    assert torch.equal(2 * delta, Noise(5).logit(torch.empty(200_000)))


def test_noise_does_not_depend_on_the_default_type():
    expected = Noise(5).logit(torch.empty(100, dtype=torch.float64))
    probability = torch.full((100,), 0.3)
    drawn = Noise(5).draw_(probability.clone())
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(Noise(5).logit(torch.empty(100, dtype=torch.float64)), expected)
        assert torch.equal(Noise(5).draw_(probability), drawn)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_stream_saved_on_a_cpu_goes_on_the_same_on_every_device_that_loads_it():
    saved, draws = Noise(5).state_dict(), []
    for seed in (1, 2):
        noise = Noise(seed)
        noise._device_generator = torch.Generator().manual_seed(seed)  # stands in for that of an accelerator
        noise.load_state_dict(saved)
        draws.append(torch.rand(3, generator=noise._device_generator))
    assert torch.equal(*draws)


def test_posterior_set_by_hand_is_the_one_that_predicts():
    net = nn.Linear(4, 3, bias=False)
    opt = BayesBiNN(net.parameters(), 10, init_natural=1.0, seed=0)
    opt.natural_parameters()[0].fill_(5.0)
    assert all(bool((w == 1).all()) for w in opt.mode_weights())


def test_only_what_was_learned_is_carried():
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    opt = BayesBiNN(net.parameters(), 10, seed=0)
    opt.carry_prior([net[0].weight])
    first, second = opt.prior_natural_parameters()
    assert torch.equal(first, opt.natural_parameters()[0])
    assert not second.any()
    opt.carry_prior(net[1].weight)
    assert torch.equal(second, opt.natural_parameters()[1])
    with pytest.raises(ValueError, match="a parameter that is not the optimizer's"):
        opt.carry_prior(copy.deepcopy(net).parameters())


def test_weights_of_a_group_that_comes_later_are_binary_at_once():
    net, head = nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)
    opt = BayesBiNN(net.parameters(), 10, seed=0)
    opt.add_param_group({"params": list(head.parameters())})
    assert bool((head.weight.abs() == 1).all())


def test_groups_share_one_number_of_samples():
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="one number for all"):
        BayesBiNN([{"params": [first]}, {"params": [second], "num_samples": 3}], num_data=10)
