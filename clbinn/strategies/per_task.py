"""One network for each task: no forgetting, no transfer, T times the memory. It must be told the task at test time."""

import copy
from collections.abc import Sequence
from typing import Any

from avalanche.core import BasePlugin, SupervisedPlugin

from clbinn.optim._binary import BinaryOptimizer
from clbinn.strategies.naive import Naive

__all__ = ["PerTask", "PerTaskPlugin"]


class PerTaskPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Makes any Avalanche strategy learn each task alone, from the same initial network.

    Evaluation of a task that was learned uses that task's network, found by the experience's number; a task not
    learned yet is given to the present network. With a binary optimizer the posterior is kept as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.task = -1
        self.initial: dict[str, Any] = {}
        self.learned: dict[int, dict[str, Any]] = {}
        self._present: dict[str, Any] = {}

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        """Start the task from the initial network; a task that goes on after a break stays as it is."""
        task = strategy.experience.current_experience
        if task == self.task:
            return
        self.task = task
        if self.initial:
            _put(strategy, self.initial)
            if not isinstance(strategy.optimizer, BinaryOptimizer):
                strategy.optimizer.state.clear()
        else:
            self.initial = _take(strategy)

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        """Keep the task's network."""
        self.learned[strategy.experience.current_experience] = _take(strategy)

    def before_eval_exp(self, strategy: Any, **_: Any) -> None:
        """Bring in the network of the task at hand."""
        task = strategy.experience.current_experience
        if task in self.learned:
            self._present = _take(strategy)
            _put(strategy, self.learned[task])

    def after_eval_exp(self, strategy: Any, **_: Any) -> None:
        """Bring back the network that was there."""
        if self._present:
            _put(strategy, self._present)
            self._present = {}

    def state_dict(self) -> dict[str, Any]:
        """All networks."""
        return {"task": self.task, "initial": self.initial, "learned": dict(self.learned)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.task, self.initial, self.learned = state["task"], state["initial"], dict(state["learned"])


def _take(strategy: Any) -> dict[str, Any]:
    """A copy of the network and, for a binary optimizer, of what it knows."""
    taken = {"model": copy.deepcopy(strategy.model.state_dict())}
    if isinstance(strategy.optimizer, BinaryOptimizer):
        taken["optimizer"] = copy.deepcopy(strategy.optimizer.state_dict())
    return taken


def _put(strategy: Any, taken: dict[str, Any]) -> None:
    """Bring a network back. Heads that came later stay as they are."""
    strategy.model.load_state_dict(taken["model"], strict=False)
    if "optimizer" in taken:
        groups = list(strategy.optimizer.param_groups)
        strategy.optimizer.load_state_dict(copy.deepcopy(taken["optimizer"]))
        for group, loaded in zip(groups, strategy.optimizer.param_groups, strict=True):
            group.clear()
            group.update(loaded)
        strategy.optimizer.param_groups[:] = groups  # schedules hold on to the groups themselves


class PerTask(Naive):
    """One network for each task, all from the same initial weights. The task must be known at test time.

    Args:
        **strategy: Arguments of `Naive`.
    """

    def __init__(self, *, plugins: Sequence[BasePlugin] | None = None, **strategy: Any) -> None:
        super().__init__(plugins=[*(plugins or ()), PerTaskPlugin()], **strategy)
