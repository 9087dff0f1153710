"""Joint training: at each task, learn from the data of all tasks so far. A ceiling, not a continual learner."""

from collections.abc import Sequence
from typing import Any

from avalanche.benchmarks.utils import concat_datasets
from avalanche.core import BasePlugin, SupervisedPlugin

from clbinn.errors import UserError
from clbinn.strategies.naive import Naive

__all__ = ["Joint", "JointPlugin"]


class JointPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Trains any Avalanche strategy on the union of the stream's tasks up to the present one.

    It keeps no data of its own: earlier tasks are read from the stream that the experience comes from.

    Raises:
        UserError: The stream gives each experience only once, as online streams do.
    """

    def after_train_dataset_adaptation(self, strategy: Any, **_: Any) -> None:
        """Put the union in the place of the task's own data."""
        experience = strategy.experience
        if not hasattr(experience.origin_stream, "__getitem__"):
            raise UserError("Joint reads earlier tasks again, and this stream gives each experience only once.")
        seen = experience.origin_stream[: experience.current_experience + 1]
        strategy.adapted_dataset = concat_datasets([past.dataset for past in seen]).train()


class Joint(Naive):
    """Joint training on all tasks so far; the network goes on from where it was.

    Args:
        **strategy: Arguments of `Naive`. An epoch is one pass over the union, so later tasks take longer.
    """

    def __init__(self, *, plugins: Sequence[BasePlugin] | None = None, **strategy: Any) -> None:
        super().__init__(plugins=[*(plugins or ()), JointPlugin()], **strategy)
