"""PMF on a stream: the softmax starts soft again with each task, or it could not learn a second one."""

from typing import Any

from avalanche.training.plugins import SupervisedPlugin

from clbinn.benchmarks.online import task_begins
from clbinn.errors import UserError
from clbinn.optim import PMF

__all__ = ["SoftStart"]


class SoftStart(SupervisedPlugin):  # type: ignore[misc]
    """Sets β of a `clbinn.optim.PMF` back to 1 at the start of each task; the logits go on from where they were.

    At the end of a task β is so large that every weight is certain and no gradient passes.

    Raises:
        UserError: The strategy's optimizer is another one.
    """

    supports_distributed = False

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Start soft."""
        if not isinstance(strategy.optimizer, PMF):
            raise UserError(f"SoftStart is for clbinn.optim.PMF, not {type(strategy.optimizer).__name__}")
        if task_begins(strategy.experience):
            for group in strategy.optimizer.param_groups:
                group["beta"] = 1.0
