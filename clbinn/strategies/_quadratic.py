"""Quadratic penalties ½ Σ_k a_k (θ - θ_k)², summed over any number of anchors in the memory of one.

The sum has the slope (Σ a_k) θ - Σ a_k θ_k, so two tensors for each parameter hold all of it: `precision` and `pull`.
"""

import torch
from torch import Tensor, nn

__all__ = ["QuadraticPenalty"]


class QuadraticPenalty:
    """The anchors of a network's parameters, by name.

    Parameters that are not known yet (a head for a new task) are free; of a parameter that grew, the part that was
    there before is held.
    """

    def __init__(self) -> None:
        self.precision: dict[str, Tensor] = {}
        self.pull: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, model: nn.Module, importance: dict[str, Tensor]) -> None:
        """Anchor the network where it is now, with one importance a_k ≥ 0 for each weight."""
        for name, p in model.named_parameters():
            if name not in importance:
                continue
            new_precision, new_pull = importance[name].clone(), importance[name] * p
            if name in self.precision:
                _part(new_precision, self.precision[name]).add_(self.precision[name])
                _part(new_pull, self.pull[name]).add_(self.pull[name])
            self.precision[name], self.pull[name] = new_precision, new_pull

    @torch.no_grad()
    def move(self, model: nn.Module, decay: float = 1.0) -> None:
        """Bring all anchors to where the network is now, their importance multiplied by `decay`."""
        for name, p in model.named_parameters():
            if name in self.precision:
                self.precision[name] = self.precision[name] * decay
                self.pull[name] = self.precision[name] * _part(p, self.precision[name])

    @torch.no_grad()
    def add_gradient(self, model: nn.Module, strength: float) -> None:
        """Add strength · (precision · θ - pull) to the gradients; a parameter without one (an idle head) stays."""
        for name, p in model.named_parameters():
            if name in self.precision and p.grad is not None:
                slope = self.precision[name] * _part(p, self.precision[name]) - self.pull[name]
                _part(p.grad, slope).add_(slope, alpha=strength)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Plain tensors."""
        return {"precision": dict(self.precision), "pull": dict(self.pull)}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take over what `state_dict` gave."""
        self.precision, self.pull = dict(state["precision"]), dict(state["pull"])


def _part(whole: Tensor, known: Tensor) -> Tensor:
    """The leading block of `whole` that has the shape of `known`, as a view."""
    return whole[tuple(slice(0, size) for size in known.shape)]
