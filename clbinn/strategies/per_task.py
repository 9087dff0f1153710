"""One network for each task: no forgetting, no transfer, T times the memory. It must be told the task at test time."""

import copy
from collections.abc import Sequence
from typing import Any

from avalanche.core import BasePlugin, SupervisedPlugin
from torch import Tensor

from clbinn.benchmarks.online import whole_experience
from clbinn.errors import UserError
from clbinn.optim.binary import BinaryOptimizer
from clbinn.strategies.bayesbinn_plugin import BayesBiNNPlugin
from clbinn.strategies.naive import Naive

__all__ = ["PerTask", "PerTaskPlugin"]


class PerTaskPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Makes any Avalanche strategy learn each task alone, from the same initial network.

    Evaluation of a task that was learned uses that task's network, found by the experience's number; a task not
    learned yet is given to the present network. With a binary optimizer the posterior is kept as well. Heads may come
    with the tasks; a layer may not grow.

    Raises:
        UserError: A layer of the network grew after the first task.
    """

    def __init__(self) -> None:
        super().__init__()
        self.task = -1
        self.initial: dict[str, Any] = {}
        self.learned: dict[int, dict[str, Any]] = {}
        self._present: dict[str, Any] = {}

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        """Start the task from the initial network; a task that goes on after a break stays as it is."""
        self.after_eval_exp(strategy)  # an exception may have left the last one open
        for plugin in strategy.plugins:
            if isinstance(plugin, BayesBiNNPlugin):
                plugin.claim(strategy)
        task = whole_experience(strategy.experience).current_experience
        if task == self.task:
            return
        self.task = task
        if self.initial:
            _put(strategy, self.initial)
            strategy.model = strategy.model_adaptation()  # which units a task uses is no part of the start
            if not isinstance(strategy.optimizer, BinaryOptimizer):
                strategy.optimizer.state.clear()
        else:
            self.initial = _take(strategy)

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        """Keep the task's network."""
        self.learned[whole_experience(strategy.experience).current_experience] = _take(strategy)

    def before_eval_exp(self, strategy: Any, **_: Any) -> None:
        """Bring in the network of the task at hand."""
        self.after_eval_exp(strategy)  # an exception may have left the last one open
        task = whole_experience(strategy.experience).current_experience
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
    """A copy of the network and, for a binary optimizer, of what it knows, with the names of its parameters."""
    taken = {"model": copy.deepcopy(strategy.model.state_dict())}
    if isinstance(strategy.optimizer, BinaryOptimizer):
        taken["optimizer"] = copy.deepcopy(strategy.optimizer.state_dict())
        taken["names"] = _names(strategy)
    return taken


def _put(strategy: Any, taken: dict[str, Any]) -> None:
    """Bring a network back. Heads that came later stay as they are."""
    _check_shapes(strategy.model.state_dict(), taken["model"])
    strategy.model.load_state_dict(taken["model"], strict=False)
    if "optimizer" in taken:
        groups = list(strategy.optimizer.param_groups)
        strategy.optimizer.load_state_dict(_with_later_heads(strategy, taken))
        for group, loaded in zip(groups, strategy.optimizer.param_groups, strict=True):
            group.clear()
            group.update(loaded)
        strategy.optimizer.param_groups[:] = groups  # schedules hold on to the groups themselves


def _names(strategy: Any) -> list[str]:
    """The names of the optimizer's parameters, in its order."""
    names = {id(p): name for name, p in strategy.model.named_parameters()}
    return [names[id(p)] for p in strategy.optimizer.parameters()]


def _with_later_heads(strategy: Any, taken: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's state that was taken, as one of the parameters that the optimizer has now."""
    state: dict[str, Any] = copy.deepcopy(taken["optimizer"])
    present = strategy.optimizer.state_dict()
    entries = {name: state["state"][index] for index, name in enumerate(taken["names"])}
    state["state"] = {i: entries.get(name, present["state"][i]) for i, name in enumerate(_names(strategy))}
    for group, now in zip(state["param_groups"], present["param_groups"], strict=True):
        group["params"] = now["params"]
    return state


def _check_shapes(present: dict[str, Tensor], taken: dict[str, Tensor]) -> None:
    for name, value in taken.items():
        if name in present and present[name].shape != value.shape:
            raise UserError(
                f"PerTask: {name} grew from {tuple(value.shape)} to {tuple(present[name].shape)}, and the networks of "
                "earlier tasks can't: give the network all its classes from the start, or a head for each task."
            )


class PerTask(Naive):
    """One network for each task, all from the same initial weights. The task must be known at test time.

    Args:
        **strategy: Arguments of `Naive`.
    """

    def __init__(self, *, plugins: Sequence[BasePlugin] | None = None, **strategy: Any) -> None:
        super().__init__(plugins=[*(plugins or ()), PerTaskPlugin()], **strategy)
