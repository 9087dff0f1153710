"""What a stream of tasks did to a network: numbers of the accuracy matrix, and of the predicted probabilities.

The functions of the matrix need numpy alone; the others bring torch in when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clbinn.evaluation.matrix import (
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
)

if TYPE_CHECKING:
    from clbinn.evaluation.metrics import ContinualMetrics, PredictionMetrics
    from clbinn.evaluation.probabilistic import brier, ece, nll

__all__ = [
    "ContinualMetrics",
    "PredictionMetrics",
    "average_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "brier",
    "ece",
    "forgetting",
    "forward_transfer",
    "learning_accuracy",
    "nll",
]

_LAZY = {
    "ContinualMetrics": "metrics",
    "PredictionMetrics": "metrics",
    "brier": "probabilistic",
    "ece": "probabilistic",
    "nll": "probabilistic",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
