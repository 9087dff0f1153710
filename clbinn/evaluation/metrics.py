"""Avalanche metrics over the pure functions of this package.

Both read `strategy.mb_output` as logits or log-probabilities: softmax of either is the predictive distribution.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name
from numpy.typing import NDArray
from torch import Tensor

from clbinn.benchmarks.online import whole_experience
from clbinn.errors import UserError
from clbinn.evaluation import matrix
from clbinn.evaluation.probabilistic import calibration_error, calibration_sums, nll

__all__ = ["ContinualMetrics", "PredictionMetrics", "Scores"]


@dataclass(frozen=True)
class Scores:
    """How well one test set is predicted.

    Attributes:
        accuracy: Fraction of right predictions, in [0, 1].
        nll: Mean negative log-likelihood, in nats.
        ece: Expected calibration error, in [0, 1].
    """

    accuracy: float
    nll: float
    ece: float


class PredictionMetrics(PluginMetric[dict[int, Scores]]):  # type: ignore[misc]
    """Accuracy, negative log-likelihood and calibration error of each test set, in one pass and little memory.

    Args:
        bins: Number of bins of the calibration error.
    """

    def __init__(self, bins: int = 15) -> None:
        super().__init__()
        self.bins = bins
        self._scores: dict[int, Scores] = {}
        self._start()

    def _start(self) -> None:
        self._calibration: Tensor | float = 0.0
        self._nll: Tensor | float = 0.0
        self._total = 0

    def reset(self) -> None:
        """Forget the scores of the last evaluation."""
        self._scores = {}
        self._start()

    def result(self) -> dict[int, Scores]:
        """The scores of the last evaluation, by experience counted from 0."""
        return dict(self._scores)

    def before_eval(self, strategy: Any) -> None:
        """A new evaluation begins."""
        self.reset()

    def before_eval_exp(self, strategy: Any) -> None:
        """A new test set begins."""
        self._start()

    def after_eval_iteration(self, strategy: Any) -> None:
        """Add one batch to the sums; nothing is read back from the device."""
        probs, targets = strategy.mb_output.softmax(1), strategy.mb_y
        self._calibration = calibration_sums(probs, targets, self.bins) + self._calibration
        self._nll = nll(probs, targets) * len(targets) + self._nll
        self._total += len(targets)

    def after_eval_exp(self, strategy: Any) -> list[MetricValue]:
        """Hand the scores of this test set to Avalanche."""
        if not isinstance(self._calibration, Tensor):
            return []  # an empty test set has no scores
        scores = Scores(
            accuracy=float(self._calibration[1].sum()) / self._total,
            nll=float(self._nll) / self._total,
            ece=float(calibration_error(self._calibration)),
        )
        self._scores[strategy.experience.current_experience] = scores
        x = strategy.clock.train_iterations
        return [
            MetricValue(self, get_metric_name(f"{name}_Exp", strategy, add_experience=True), value, x)
            for name, value in vars(scores).items()
        ]


class ContinualMetrics(PluginMetric[dict[str, float]]):  # type: ignore[misc]
    """The accuracy matrix of a stream, filled as Avalanche trains and evaluates, and the numbers of it.

    Evaluate the whole test stream once before training (row 0) and once after each experience. After each evaluation
    the numbers of the tasks trained so far are given out, unless an evaluation that they need is missing. Evaluations
    in the middle of a task (`eval_every`) and of other streams don't count. The parts of an experience in an online
    stream with task boundaries are one task.

    Args:
        num_tasks: Number of tasks T of the stream.
        stream: Name of the stream whose evaluations make the matrix.

    Raises:
        UserError: More tasks were trained than that.
    """

    NUMBERS = (
        matrix.average_accuracy,
        matrix.learning_accuracy,
        matrix.average_incremental_accuracy,
        matrix.backward_transfer,
        matrix.forward_transfer,
        matrix.forgetting,
    )

    def __init__(self, num_tasks: int, stream: str = "test") -> None:
        super().__init__()
        self.stream = stream
        self.matrix: NDArray[np.float64] = np.full((num_tasks + 1, num_tasks), np.nan)
        self._trained = 0
        self._parted: Any = None  # the experience that the last part was of
        self._inside_task = False
        self._correct: Tensor | int = 0
        self._total = 0

    def reset(self) -> None:
        """Forget everything."""
        self.matrix[:] = np.nan
        self._trained, self._parted = 0, None
        self._inside_task = False

    def result(self) -> dict[str, float]:
        """The numbers of the tasks trained so far, by the names of the functions in `clbinn.evaluation`."""
        seen = self.matrix[: self._trained + 1, : self._trained]
        return {} if np.isnan(seen).any() or not seen.size else {f.__name__: f(seen) for f in self.NUMBERS}

    def before_training_epoch(self, strategy: Any) -> None:
        """The network is between two rows until the task ends."""
        self._inside_task = True

    def after_training_exp(self, strategy: Any) -> None:
        """One more row, if this was not one more part of the task before."""
        self._inside_task = False
        whole, before = whole_experience(strategy.experience), self._parted
        self._parted = None if whole is strategy.experience else whole
        if self._parted is None or self._parted is not before:
            self._trained += 1

    def before_eval_exp(self, strategy: Any) -> None:
        """A new test set begins."""
        self._correct = self._total = 0

    def after_eval_iteration(self, strategy: Any) -> None:
        """Count the right predictions of one batch."""
        self._correct = torch.eq(strategy.mb_output.argmax(1), strategy.mb_y).sum() + self._correct
        self._total += len(strategy.mb_y)

    def after_eval_exp(self, strategy: Any) -> None:
        """One entry of the matrix."""
        if self._total and not self._inside_task and strategy.experience.origin_stream.name == self.stream:
            if self._trained >= len(self.matrix):
                raise UserError(
                    f"ContinualMetrics: made for num_tasks={len(self.matrix) - 1}, and {self._trained} were trained."
                )
            self.matrix[self._trained, strategy.experience.current_experience] = int(self._correct) / self._total

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        """Hand the numbers to Avalanche."""
        if self._inside_task:
            return []
        x = strategy.clock.train_iterations
        return [
            MetricValue(self, get_metric_name(f"{name}_Stream", strategy, add_task=False), value, x)
            for name, value in self.result().items()
        ]
