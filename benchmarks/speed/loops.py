"""Avalanche strategies as contenders."""

import time
import warnings
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin

__all__ = ["EpochClock", "silent"]


class EpochClock(SupervisedPlugin):
    """Measures the last training epoch of a strategy, without what comes before and after all epochs."""

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Start."""
        self.started = time.perf_counter()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.started

    def train(self, strategy: Any, experience: Any) -> float:
        """Trains for one epoch: its seconds."""
        strategy.train(experience)
        return self.seconds


def silent() -> EvaluationPlugin:
    """An evaluation plugin that measures and prints nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        return EvaluationPlugin(collect_all=False)
