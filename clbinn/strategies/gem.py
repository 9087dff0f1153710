"""Gradient episodic memory (Lopez-Paz and Ranzato 2017): Avalanche's method with a solver that is always there.

Avalanche hands the small quadratic program of each step to `quadprog`, which it does not install. Here it is solved as
non-negative least squares.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from avalanche.core import BasePlugin
from avalanche.training.plugins import GEMPlugin as AvalancheGEMPlugin
from scipy.linalg import solve_triangular  # type: ignore[import-untyped]
from scipy.optimize import nnls  # type: ignore[import-untyped]
from torch import Tensor

from clbinn.errors import UserError
from clbinn.strategies.naive import Naive

__all__ = ["GEM", "GEMPlugin", "project"]


def project(gradient: Tensor, memories: Tensor, margin: float, ridge: float = 1e-3) -> Tensor:
    """The gradient that is nearest to the one given and does not raise the loss on any memory.

    With G the memories' gradients, one a row: g + Gᵀv, where v ≥ margin minimises ½ vᵀ(G Gᵀ + ridge) v + (G g)ᵀ v. With
    v = u + margin and the Cholesky factor L of G Gᵀ + ridge, that is min ‖Lᵀ u + L⁻¹(G g + (G Gᵀ + ridge) margin)‖ over
    u ≥ 0.

    Args:
        gradient: g, `(parameters,)`.
        memories: G, `(tasks, parameters)`.
        margin: Smallest weight of each memory, ≥ 0.
        ridge: Added to the diagonal of G Gᵀ, > 0.

    Returns:
        The new gradient, `(parameters,)`.
    """
    rows = memories.detach().cpu().double().numpy()
    own = gradient.detach().cpu().double().numpy()
    gram = rows @ rows.T + ridge * np.eye(len(rows))
    factor = np.linalg.cholesky(gram)
    offset = solve_triangular(factor, rows @ own + gram @ np.full(len(rows), margin), lower=True)
    weights = nnls(factor.T, -offset)[0] + margin
    return torch.from_numpy(own + weights @ rows).to(gradient)


class GEMPlugin(AvalancheGEMPlugin):  # type: ignore[misc]
    """Adds gradient episodic memory to an Avalanche strategy.

    Args:
        patterns_per_experience: Samples kept of each task, the first ones.
        memory_strength: Margin of the projection, ≥ 0.

    Raises:
        UserError: An option is out of its range.
    """

    def __init__(self, patterns_per_experience: int = 256, memory_strength: float = 0.5) -> None:
        if patterns_per_experience < 1 or memory_strength < 0:
            raise UserError("GEM: patterns_per_experience must be at least 1, and memory_strength at least 0.")
        super().__init__(patterns_per_experience, memory_strength)

    def solve_quadprog(self, g: Tensor) -> Tensor:
        """The projected gradient for the gradient `g`."""
        return project(g.view(-1), self.G, self.memory_strength)

    def state_dict(self) -> dict[str, Any]:
        """The memories."""
        return {"x": dict(self.memory_x), "y": dict(self.memory_y), "task": dict(self.memory_tid)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.memory_x, self.memory_y, self.memory_tid = dict(state["x"]), dict(state["y"]), dict(state["task"])


class GEM(Naive):
    """Gradient episodic memory.

    Args:
        patterns_per_experience: Samples kept of each task, the first ones.
        memory_strength: Margin of the projection, ≥ 0.
        **strategy: Arguments of `Naive`.
    """

    def __init__(
        self,
        *,
        patterns_per_experience: int = 256,
        memory_strength: float = 0.5,
        plugins: Sequence[BasePlugin] | None = None,
        **strategy: Any,
    ) -> None:
        super().__init__(plugins=[*(plugins or ()), GEMPlugin(patterns_per_experience, memory_strength)], **strategy)
