"""Continual learning with Bayesian binary neural networks."""
