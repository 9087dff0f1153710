"""The global generators of a run: what they draw depends on the seed and the place in the run alone."""

import random
from typing import Any

import numpy as np
import torch

from clbinn.seeding import derive_seed

__all__ = ["get_rng", "seed_all", "set_rng"]


def seed_all(seed: int, *place: str | int) -> None:
    """Seed the global generators of Python, numpy and torch (all devices) for one place of a run."""
    number = derive_seed(seed, *place)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 (Avalanche draws from numpy's global generator)
    torch.manual_seed(number)


def get_rng() -> dict[str, Any]:
    """The state of the global generators as plain tensors and numbers."""
    version, numbers, gauss = random.getstate()
    numpy: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *rest = numpy
    return {
        "python": {"version": version, "numbers": list(numbers), "gauss": gauss},
        "numpy": {"name": name, "keys": keys.tolist(), "rest": rest},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng(state: dict[str, Any]) -> None:
    """Take over what `get_rng` gave."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["numbers"]), python["gauss"]))
    np.random.set_state((numpy["name"], np.array(numpy["keys"], np.uint32), *numpy["rest"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
