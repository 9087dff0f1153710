"""Generators that depend on a seed and a purpose alone."""

import torch

from clbinn.seeding import derive_seed

__all__ = ["seeded"]


def seeded(device: torch.device | str, *purpose: int | str) -> torch.Generator:
    """A generator on the device, seeded as in `derive_seed`, e.g. `seeded("cpu", seed, "coreset", task)`."""
    return torch.Generator(device).manual_seed(derive_seed(*purpose))
