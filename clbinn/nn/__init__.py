"""Networks of the paper, and the statistics of their normalisation."""

from clbinn.nn.mean_field import MeanFieldLinear
from clbinn.nn.mlp import MLP, FanInScale

__all__ = ["MLP", "FanInScale", "MeanFieldLinear"]
