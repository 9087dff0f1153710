"""The Bernoulli functions against torch.distributions, SciPy-free closed forms and finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, kl_divergence

from clbinn import bernoulli

NATURAL = torch.linspace(-8, 8, 33, dtype=torch.float64)
finite = st.floats(-15, 15)


def test_probability_and_mean_agree_with_their_definitions():
    p = bernoulli.probability(NATURAL)
    assert torch.allclose(NATURAL, 0.5 * torch.log(p / (1 - p)))
    assert torch.allclose(bernoulli.mean(NATURAL), 2 * p - 1)


@given(finite)
def test_natural_parameters_survive_the_round_trip(value):
    natural = torch.tensor(value, dtype=torch.float64)
    assert torch.allclose(bernoulli.natural_from_probability(bernoulli.probability(natural)), natural, atol=1e-3)
    assert torch.allclose(bernoulli.natural_from_mean(bernoulli.mean(natural)), natural, atol=1e-2)


def test_mode_is_plus_one_at_zero():
    assert bernoulli.mode(torch.tensor([-0.1, -0.0, 0.0, 3.0])).tolist() == [-1, 1, 1, 1]


def test_certain_weights_have_no_entropy_and_the_logarithm_of_the_prior():
    certain, prior = torch.tensor([math.inf, -math.inf]), torch.tensor([0.0, 2.0])
    assert bernoulli.entropy(certain).tolist() == [0, 0]
    assert bernoulli.entropy(torch.tensor([1e30, -500.0])).tolist() == [0, 0]
    expected = -torch.log(torch.sigmoid(2 * prior * certain.sign()))
    assert torch.allclose(bernoulli.kl_divergence(certain, prior), expected)


def test_entropy_and_kl_agree_with_torch_distributions():
    prior = NATURAL.flip(0) / 3
    q = Bernoulli(probs=bernoulli.probability(NATURAL))
    p = Bernoulli(probs=bernoulli.probability(prior))
    assert torch.allclose(bernoulli.entropy(NATURAL), q.entropy(), atol=1e-6)
    assert torch.allclose(bernoulli.kl_divergence(NATURAL, prior), kl_divergence(q, p), atol=1e-6)


@given(finite, finite)
@settings(max_examples=50)
def test_natural_gradient_of_the_kl_is_the_difference(value, prior_value):
    """∂KL/∂μ = λ - λ0, which is what the optimizer's pull to the prior rests on."""
    mean = torch.tensor(value / 4, dtype=torch.float64).tanh().requires_grad_()
    prior = torch.tensor(prior_value / 4, dtype=torch.float64)
    bernoulli.kl_divergence(bernoulli.natural_from_mean(mean), prior).backward()
    expected = value / 4 - prior_value / 4
    assert mean.grad.item() == pytest.approx(expected if value != prior_value else 0, abs=1e-6)


def test_relaxed_samples_become_exact_draws_as_the_temperature_falls():
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(200_000, generator=generator, dtype=torch.float64)
    natural = torch.tensor(0.4, dtype=torch.float64)
    relaxed = bernoulli.relaxed_sample(natural, bernoulli.logistic_noise(uniform), 1e-8)
    assert torch.equal(relaxed.sign(), torch.where(natural + bernoulli.logistic_noise(uniform) > 0, 1.0, -1.0).double())
    assert (relaxed > 0).double().mean().item() == pytest.approx(bernoulli.probability(natural).item(), abs=5e-3)
    assert (bernoulli.sample(natural, uniform) > 0).double().mean().item() == pytest.approx(0.6899745, abs=5e-3)


def test_gradient_scale_is_the_ratio_of_derivatives():
    """s = N dw/dμ by automatic differentiation, in float64 with a negligible eps."""
    natural = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    noise = torch.linspace(1, -1, 9, dtype=torch.float64)
    relaxed = bernoulli.relaxed_sample(natural, noise, 0.7)
    (dw,) = torch.autograd.grad(relaxed.sum(), natural, retain_graph=True)
    (dmu,) = torch.autograd.grad(bernoulli.mean(natural).sum(), natural)
    scale = bernoulli.gradient_scale(relaxed.detach(), natural.detach(), 0.7, 50, eps=1e-300)
    assert torch.allclose(scale, 50 * dw / dmu)


def test_gradient_scale_at_saturation_rests_on_eps():
    one, natural = torch.ones(1), torch.full((1,), 10.0)
    assert bernoulli.gradient_scale(one, natural, 1e-10, 1).item() == pytest.approx(1e10)
    assert bernoulli.gradient_scale(one, natural, 1e-2, 1).item() == pytest.approx(100)


def test_whole_numbers_have_probabilities():
    assert torch.equal(bernoulli.probability(torch.tensor([0, 400, -400])), torch.tensor([0.5, 1, 0]))
