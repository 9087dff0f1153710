"""How sure the weights are after each task: a histogram of P(w = +1), kept in the checkpoint."""

from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from clbinn import bernoulli
from clbinn.optim import BayesBiNN

__all__ = ["WeightHistogram"]

BINS = 50


class WeightHistogram(SupervisedPlugin):  # type: ignore[misc]
    """After each task counts the weights of a BayesBiNN optimizer by P(w = +1), in bins of [0, 1].

    Args:
        bins: Number of bins.
    """

    supports_distributed = False

    def __init__(self, bins: int = BINS) -> None:
        super().__init__()
        self.bins = bins
        self.counts: list[list[int]] = []

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Count."""
        if isinstance(strategy.optimizer, BayesBiNN):
            natural = torch.cat([p.reshape(-1) for p in strategy.optimizer.natural_parameters()])
            self.counts.append(torch.histc(bernoulli.probability(natural), self.bins, 0, 1).long().tolist())

    def state_dict(self) -> dict[str, Any]:
        """The counts, a list for each task."""
        return {"counts": [list(counts) for counts in self.counts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.counts = [list(counts) for counts in state["counts"]]
