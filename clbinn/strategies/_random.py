"""Generators that depend on given numbers alone."""

import numpy as np
import torch

__all__ = ["seeded"]


def seeded(device: torch.device | str, *seeds: int) -> torch.Generator:
    """A generator on the device; different numbers (≥ 0) give streams that have nothing in common."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
