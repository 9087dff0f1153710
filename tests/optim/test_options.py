"""Options out of their range are refused by name."""

import pytest
from torch import nn

from clbinn.optim import PMF, STE, BayesBiNN, Bop, LRNet

BAD = [
    (BayesBiNN, {"num_data": 0}, "num_data"),
    (BayesBiNN, {"num_data": 10, "temperature": 0.0}, "temperature"),
    (BayesBiNN, {"num_data": 10, "momentum": 1.0}, "momentum"),
    (BayesBiNN, {"num_data": 10, "lr": -1.0}, "lr"),
    (BayesBiNN, {"num_data": 10, "eps": 0.0}, "eps"),
    (STE, {"lr": float("nan")}, "lr"),
    (STE, {"betas": (0.9, 1.0)}, "betas"),
    (STE, {"betas": (0.9,)}, "betas"),
    (STE, {"betas": 0.9}, "betas must be two numbers, got 0.9"),
    (STE, {"eps": -1e-8}, "eps"),
    (STE, {"seed": -1}, "seed must be at least 0 and a whole number"),
    (STE, {"seed": 1.5}, "seed must be at least 0 and a whole number"),
    (STE, {"clip_gradient": 0.0}, "clip_gradient"),
    (STE, {"clip_latent": -1.0}, "clip_latent"),
    (Bop, {"adaptivity": 1.5}, "adaptivity"),
    (Bop, {"adaptivity": float("nan")}, "adaptivity"),
    (Bop, {"adaptivity": "1e-3"}, "adaptivity must be finite and at least 0, got '1e-3'"),
    (Bop, {"threshold": -1e-8}, "threshold"),
    (PMF, {"rho": 0.9}, "rho"),
    (PMF, {"rho_interval": 0}, "rho_interval"),
    (PMF, {"rho_interval": 1.5}, "rho_interval must be at least 1 and a whole number"),
    (PMF, {"beta_max": 0.5}, "beta_max"),
    (PMF, {"weight_decay": -1.0}, "weight_decay"),
    (PMF, {"jacobian": "other"}, "jacobian must be one of exact, identity"),
    (LRNet, {}, "to_stochastic"),
    (LRNet, {"probability_penalty": -1.0}, "probability_penalty"),
]


@pytest.mark.parametrize(("cls", "options", "message"), BAD)
def test_bad_options_are_refused_by_name(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(nn.Linear(3, 2, bias=False).parameters(), **options)
