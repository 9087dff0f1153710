"""Elastic weight consolidation (Kirkpatrick et al. 2017), with the Fisher information of single samples.

After each task the loss of the next ones gets λ/2 Σ_i F_i (θ_i - θ*_i)². F is the diagonal of the empirical Fisher
information, the mean over samples of the squared gradient of log p(y | x). (Squaring the gradient of a mini-batch's
mean, as Avalanche's plugin does, gives a number smaller by about the batch size.)
"""

from collections.abc import Sequence
from typing import Any

import torch
from avalanche.core import BasePlugin, SupervisedPlugin
from torch import Tensor

from clbinn.benchmarks.online import Parts, whole_experience
from clbinn.errors import UserError
from clbinn.strategies._data import reader
from clbinn.strategies._quadratic import QuadraticPenalty
from clbinn.strategies._random import seeded
from clbinn.strategies.fisher import fisher_diagonal
from clbinn.strategies.naive import Naive

__all__ = ["EWC", "EWCPlugin"]


class EWCPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Adds elastic weight consolidation to an Avalanche strategy.

    Args:
        strength: λ ≥ 0, the weight of the penalty against the mean loss of a mini-batch.
        decay: None keeps each task's anchor, as in the paper. A number γ in [0, 1] is online EWC (Schwarz et al. 2018):
            one anchor, at the newest weights, with importance F ← γ F + F_task.
        fisher_samples: Samples that the Fisher information is estimated with, the first of a shuffle; None takes all.
        batch_size: Samples in one pass over the network.
        seed: Seed of that shuffle.

    Raises:
        UserError: An option is out of its range.
    """

    def __init__(
        self,
        strength: float,
        decay: float | None = None,
        fisher_samples: int | None = None,
        batch_size: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= strength < float("inf"):
            raise UserError(f"EWC: strength must be at least 0, not {strength}.")
        if decay is not None and not 0 <= decay <= 1:
            raise UserError(f"EWC: decay must be in [0, 1], not {decay}.")
        if fisher_samples is not None and fisher_samples < 1:
            raise UserError(f"EWC: fisher_samples must be at least 1, not {fisher_samples}.")
        self.strength, self.decay, self.fisher_samples = strength, decay, fisher_samples
        self.batch_size, self.seed = batch_size, seed
        self.penalty = QuadraticPenalty()
        self._parts = Parts()

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        """Count the parts of a task in an online stream."""
        self._parts.begin(strategy.experience)

    def before_update(self, strategy: Any, **_: Any) -> None:
        """Add the penalty's gradient, λ F (θ - θ*), to that of the loss."""
        self.penalty.add_gradient(strategy.model, self.strength)

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        """Measure the importances on the task just learned and anchor the network."""
        if not self._parts.end(strategy.experience):
            return
        fisher = self.importances(strategy)
        if self.decay is not None:
            self.penalty.move(strategy.model, self.decay)
        self.penalty.add(strategy.model, fisher)

    def importances(self, strategy: Any) -> dict[str, Tensor]:
        """Mean over the samples of the task, network in evaluation mode."""
        model = strategy.model
        training = model.training
        model.eval()
        total: dict[str, Tensor] = {}
        count = 0
        data = whole_experience(strategy.experience).dataset.eval()
        order = torch.arange(len(data))
        if self.fisher_samples is not None:
            order = torch.randperm(len(data), generator=seeded("cpu", self.seed, "fisher"))[: self.fisher_samples]
        read = reader(data, strategy.device)
        for index in torch.split(order, self.batch_size):
            x, y, task = read(index)
            count += len(y)
            for name, value in fisher_diagonal(model, x, y, task).items():
                total[name] = total[name] + value if name in total else value
        model.train(training)
        return {name: value / count for name, value in total.items()}

    def state_dict(self) -> dict[str, Any]:
        """The anchors."""
        return self.penalty.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.penalty.load_state_dict(state)


class EWC(Naive):
    """Elastic weight consolidation: λ/2 Σ_k Σ_i F_k,i (θ_i - θ_k,i)² over all earlier tasks k; or its online form.

    Args:
        strength: λ ≥ 0.
        decay: None is EWC. γ in [0, 1] is online EWC: one anchor at the newest weights, F ← γ F + F_task.
        fisher_samples: Samples of each task for the Fisher information; None takes all.
        plugins: More Avalanche plugins.
        **strategy: Other arguments of `Naive`.

    Raises:
        UserError: An option is out of its range.
    """

    def __init__(
        self,
        *,
        strength: float = 100.0,
        decay: float | None = None,
        fisher_samples: int | None = None,
        plugins: Sequence[BasePlugin] | None = None,
        **strategy: Any,
    ) -> None:
        plugin = EWCPlugin(strength, decay, fisher_samples, seed=strategy.get("seed", 0))
        super().__init__(plugins=[*(plugins or ()), plugin], **strategy)
