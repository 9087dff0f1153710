"""The 64-64 tanh networks of the synthetic problems (appendix B.1)."""

from collections.abc import Sequence
from math import prod

from torch import nn

from clbinn.nn.lean import BatchNorm1d
from clbinn.nn.mlp import MLP

__all__ = ["snelson", "two_moons"]


def two_moons(input_shape: Sequence[int] = (2,), out_features: int = 1, hidden: Sequence[int] = (64, 64)) -> nn.Module:
    """Two moons: tanh, biases, no normalisation; the output is the logit of class 1."""
    return MLP(prod(input_shape), hidden, out_features, activation="tanh", norm="none", bias=True)


def snelson(input_shape: Sequence[int] = (1,), out_features: int = 1, hidden: Sequence[int] = (64, 64)) -> nn.Module:
    """Snelson's regression: as `two_moons`, with a batch normalisation without gain and bias at the end."""
    norm = BatchNorm1d(out_features, 1e-4, 0.15)
    return nn.Sequential(two_moons(input_shape, out_features, hidden), norm)
