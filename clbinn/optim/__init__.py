"""Optimizers for binary weights: one file each, a class (checks, state) over a plain function (the equation)."""

from clbinn.optim.bayesbinn import BayesBiNN
from clbinn.optim.binary import BinaryOptimizer
from clbinn.optim.bop import Bop
from clbinn.optim.lrnet import LRNet
from clbinn.optim.pmf import PMF
from clbinn.optim.schedules import CosineDecay, ExponentialDecay, StepDecay
from clbinn.optim.ste import STE

__all__ = [
    "PMF",
    "STE",
    "BayesBiNN",
    "BinaryOptimizer",
    "Bop",
    "CosineDecay",
    "ExponentialDecay",
    "LRNet",
    "StepDecay",
]
