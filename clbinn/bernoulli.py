"""The Bernoulli distribution over a weight w in {-1, +1}, as functions on tensors. No state.

A weight with natural parameter λ has P(w = +1) = σ(2λ) and mean μ = E[w] = tanh λ. Every function works element by
element on tensors of any shape and returns that shape.
"""

import torch
from torch import Tensor

__all__ = [
    "entropy",
    "gradient_scale",
    "kl_divergence",
    "logistic_noise",
    "mean",
    "mode",
    "natural_from_mean",
    "natural_from_probability",
    "probability",
    "relaxed_sample",
    "sample",
]


def mean(natural: Tensor) -> Tensor:
    """μ = tanh λ, in [-1, 1]."""
    return torch.tanh(natural)


def probability(natural: Tensor) -> Tensor:
    """P(w = +1) = σ(2λ), in [0, 1]."""
    return torch.sigmoid(2 * natural)


def natural_from_mean(mean: Tensor) -> Tensor:
    """λ = artanh μ; infinite at μ = ±1."""
    return torch.atanh(mean)


def natural_from_probability(probability: Tensor) -> Tensor:
    """λ = ½ ln(p / (1 - p)); infinite at p = 0 and p = 1."""
    return torch.logit(probability) / 2


def mode(natural: Tensor) -> Tensor:
    """The likelier value, sign λ, as ±1; λ = 0 gives +1."""
    return natural.sign().add_(0.5).sign_()


def sample(natural: Tensor, uniform: Tensor) -> Tensor:
    """An exact draw: +1 where u < σ(2λ), else -1, with u uniform on [0, 1) and of the shape of λ."""
    return (uniform < probability(natural)).to(natural.dtype).mul_(2).sub_(1)


def logistic_noise(uniform: Tensor) -> Tensor:
    """δ = ½ ln(u / (1 - u)), so that sign(λ + δ) is a draw from the Bernoulli distribution. u = 0 gives -∞."""
    return torch.logit(uniform) / 2


def relaxed_sample(natural: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The concrete relaxation w = tanh((λ + δ) / τ), in [-1, 1]; τ → 0 gives an exact draw."""
    return torch.tanh((natural + noise) / temperature)


def gradient_scale(relaxed: Tensor, natural: Tensor, temperature: float, num_data: float, eps: float = 1e-10) -> Tensor:
    """s = N (1 - w² + eps) / (τ (1 - tanh²λ + eps)), which is N dw/dμ for eps = 0.

    At the paper's temperatures both numerator and denominator are mostly 0 in float32, and eps decides the result.
    """
    return num_data * (1 - relaxed.square() + eps) / (temperature * (1 - mean(natural).square() + eps))


def entropy(natural: Tensor) -> Tensor:
    """Entropy in nats, ln(2 cosh λ) - λ tanh λ, in [0, ln 2]; 0 for infinite λ."""
    magnitude = natural.abs().clamp_max(400)  # from there on e^{-2|λ|} is 0, and so is the rest
    odds = torch.exp(-2 * magnitude)  # of the less likely value
    return torch.log1p(odds) + 2 * magnitude * odds / (1 + odds)


def kl_divergence(natural: Tensor, prior_natural: Tensor) -> Tensor:
    """KL(q ‖ p) in nats: (λ - λ0) tanh λ - ln cosh λ + ln cosh λ0, for finite λ0; λ may be infinite."""
    of_prior = log_partition(prior_natural)
    divergence = (natural - prior_natural) * torch.tanh(natural) - log_partition(natural) + of_prior
    certain = of_prior - prior_natural * natural.sign()
    return torch.where(natural.isinf(), certain, divergence).clamp_min(0)


def log_partition(natural: Tensor) -> Tensor:
    """A(λ) = ln(2 cosh λ), without overflow."""
    magnitude = natural.abs()
    return magnitude + torch.log1p(torch.exp(-2 * magnitude))
