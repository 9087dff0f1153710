"""The experiences of online streams, which are parts of other ones."""

from typing import Any

from avalanche.benchmarks.scenarios.online import OnlineCLExperience

__all__ = ["whole_experience"]


def whole_experience(experience: Any) -> Any:
    """The experience itself; of a part in an online stream with task boundaries, the experience that it is a part of.

    Its number is the task's, and that of the task's test set; parts are counted over the whole stream.
    """
    parted = isinstance(experience, OnlineCLExperience) and experience.access_task_boundaries
    return experience.origin_experience if parted else experience
