"""Synaptic intelligence (Zenke, Poole, Ganguli 2017).

During a task each weight gathers its share of the loss's fall, ω += -g Δθ, with g the gradient of the task's own loss
(without the penalty) and Δθ the step taken. At the end of task k, Ω += max(0, ω / ((θ - θ_start)² + ξ)), and the loss
of later tasks gets c Σ Ω (θ - θ*)². There is no upper bound on Ω.
"""

from collections.abc import Sequence
from typing import Any

import torch
from avalanche.core import BasePlugin, SupervisedPlugin
from torch import Tensor

from clbinn.benchmarks.online import Parts
from clbinn.errors import UserError
from clbinn.strategies._quadratic import QuadraticPenalty
from clbinn.strategies.naive import Naive

__all__ = ["SI", "SIPlugin", "path_importance"]


def path_importance(path: Tensor, change: Tensor, damping: float) -> Tensor:
    """max(0, ω / (Δ² + ξ)): what a weight did for the loss, per squared way that it went. Shape of its inputs."""
    return (path / (change.square() + damping)).clamp_min(0)


class SIPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Adds synaptic intelligence to an Avalanche strategy.

    Args:
        strength: c ≥ 0, the weight of the penalty against the mean loss of a mini-batch.
        damping: ξ > 0.

    Raises:
        UserError: An option is out of its range.
    """

    def __init__(self, strength: float, damping: float = 0.1) -> None:
        super().__init__()
        if not 0 <= strength < float("inf"):
            raise UserError(f"SI: strength must be at least 0, not {strength}.")
        if not 0 < damping < float("inf"):
            raise UserError(f"SI: damping must be greater than 0, not {damping}.")
        self.strength, self.damping = strength, damping
        self.penalty = QuadraticPenalty()
        self.start: dict[str, Tensor] = {}
        self.path: dict[str, Tensor] = {}
        self._step: dict[str, tuple[Tensor, Tensor]] = {}
        self._parts = Parts()

    @torch.no_grad()
    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        """Note where each weight starts; in a task that goes on, after a break or with its next part, it is known."""
        self._parts.begin(strategy.experience)
        for name, p in strategy.model.named_parameters():
            if name not in self.start or self.start[name].shape != p.shape:
                self.start[name], self.path[name] = p.clone(), torch.zeros_like(p)

    @torch.no_grad()
    def before_update(self, strategy: Any, **_: Any) -> None:
        """Keep the loss's gradient and the weights, then add the penalty's gradient, 2 c Ω (θ - θ*)."""
        named = strategy.model.named_parameters()
        self._step = {name: (p.grad.clone(), p.clone()) for name, p in named if p.grad is not None}
        self.penalty.add_gradient(strategy.model, 2 * self.strength)

    @torch.no_grad()
    def after_update(self, strategy: Any, **_: Any) -> None:
        """Add this step's share, -g Δθ."""
        for name, p in strategy.model.named_parameters():
            if name in self._step:
                gradient, before = self._step[name]
                self.path[name].addcmul_(gradient, before - p)
        self._step = {}

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        """Turn paths into importances, anchor the network, and begin anew."""
        if not self._parts.end(strategy.experience):
            return
        importance = {
            name: path_importance(self.path[name], p - self.start[name], self.damping)
            for name, p in strategy.model.named_parameters()
        }
        self.penalty.move(strategy.model)
        self.penalty.add(strategy.model, importance)
        self.start, self.path = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """The anchors, and the paths of the task at hand."""
        return {"penalty": self.penalty.state_dict(), "start": dict(self.start), "path": dict(self.path)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.penalty.load_state_dict(state["penalty"])
        self.start, self.path = dict(state["start"]), dict(state["path"])


class SI(Naive):
    """Synaptic intelligence: c Σ_i Ω_i (θ_i - θ*_i)², Ω gathered along the path of learning.

    Args:
        strength: c ≥ 0.
        damping: ξ > 0.
        plugins: More Avalanche plugins.
        **strategy: Other arguments of `Naive`.

    Raises:
        UserError: An option is out of its range.
    """

    def __init__(
        self,
        *,
        strength: float = 0.1,
        damping: float = 0.1,
        plugins: Sequence[BasePlugin] | None = None,
        **strategy: Any,
    ) -> None:
        super().__init__(plugins=[*(plugins or ()), SIPlugin(strength, damping)], **strategy)
