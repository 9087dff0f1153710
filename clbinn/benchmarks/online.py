"""The experiences of online streams, which are parts of other ones."""

from typing import Any

from avalanche.benchmarks.scenarios.online import OnlineCLExperience
from avalanche.training.utils import _at_task_boundary

__all__ = ["Parts", "task_begins", "training_set", "whole_experience"]


def whole_experience(experience: Any) -> Any:
    """The experience itself; of a part in an online stream with task boundaries, the experience that it is a part of.

    Its number is the task's, and that of the task's test set; parts are counted over the whole stream.
    """
    parted = isinstance(experience, OnlineCLExperience) and experience.access_task_boundaries
    return experience.origin_experience if parted else experience


def training_set(strategy: Any) -> Any:
    """The training data of the whole task that a strategy is at, as its plugins have made them."""
    whole = whole_experience(strategy.experience)
    return strategy.adapted_dataset if whole is strategy.experience else whole.dataset


def task_begins(experience: Any) -> bool:
    """Whether an experience is the first of its task."""
    return bool(_at_task_boundary(experience, before=True))


class Parts:
    """Tells a strategy, which is trained on one experience after the other, where tasks begin and end.

    An experience that is no part in an online stream with task boundaries is a task of its own.
    """

    def __init__(self) -> None:
        self._count = 0

    def begin(self, experience: Any) -> bool:
        """Whether a task begins with this experience; to be called before each."""
        first = task_begins(experience)
        self._count = 1 if first else self._count + 1
        return first

    def end(self, experience: Any) -> bool:
        """Whether a task ends with this experience, the last that began."""
        counted = getattr(experience, "sub_stream_length", None) == self._count  # is_last_subexp may miss it
        return counted or bool(_at_task_boundary(experience, before=False))
