"""Optimizers for binary weights: one file each, a class (checks, state) over a plain function (the equation)."""

from clbinn.optim.bayesbinn import BayesBiNN

__all__ = ["BayesBiNN"]
