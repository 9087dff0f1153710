"""Avalanche's training epoch without the work that nobody asked for."""

from collections.abc import Callable
from typing import Any

from avalanche.core import BaseSGDPlugin, SupervisedPlugin
from avalanche.evaluation import PluginMetric
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate

__all__ = ["LeanEpoch", "listeners"]

_STAGES = ("training_iteration", "forward", "backward", "update")
_MOMENTS = tuple(f"{when}_{stage}" for stage in _STAGES for when in ("before", "after"))


def listeners(plugins: list[Any], moment: str) -> list[Callable[..., Any]]:
    """The plugins' methods for a moment, in order, less those that do nothing.

    Left out are methods inherited from Avalanche's empty base classes, and evaluation plugins without loggers whose
    metrics don't listen: they copy the experience at every call.
    """
    return [getattr(plugin, moment) for plugin in plugins if _listens(plugin, moment)]


def _listens(plugin: Any, moment: str) -> bool:
    if not isinstance(plugin, EvaluationPlugin):
        return _has_own(plugin, moment, BaseSGDPlugin, SupervisedPlugin)
    own = moment in vars(plugin) or hasattr(type(plugin), moment)
    return own or bool(plugin.loggers) or any(_has_own(metric, moment, PluginMetric) for metric in plugin.metrics)


def _has_own(part: Any, moment: str, *empty: type) -> bool:
    """Whether a plugin or metric has a method for a moment that is not one of these empty base classes'."""
    idle = [vars(base)[moment] for base in empty if moment in vars(base)]
    return moment in vars(part) or (hasattr(part, moment) and getattr(type(part), moment, None) not in idle)


def _overrides(strategy: Any, moment: str) -> bool:
    """Whether a strategy has a method of its own for a moment in the place of Avalanche's, which calls the plugins."""
    method = getattr(strategy, f"_{moment}")
    return getattr(method, "__func__", method) is not getattr(SupervisedTemplate, f"_{moment}")


class LeanEpoch:
    """Mix-in for an Avalanche strategy: the same epoch in the same order, calling only those who listen."""

    def training_epoch(self: Any, **kwargs: Any) -> None:
        """One pass over `self.dataloader`."""
        own = {moment for moment in _MOMENTS if _overrides(self, moment)}
        heard = {moment: listeners(self.plugins, moment) for moment in _MOMENTS}

        def tell(moment: str) -> None:
            if moment in own:
                getattr(self, f"_{moment}")(**kwargs)
                return
            for listener in heard[moment]:
                listener(self, **kwargs)

        for self.mbatch in self.dataloader:  # noqa: B020
            if self._stop_training:
                break
            self._unpack_minibatch()
            tell("before_training_iteration")
            self.optimizer.zero_grad()
            self.loss = self._make_empty_loss()
            tell("before_forward")
            self.mb_output = self.forward()
            tell("after_forward")
            self.loss += self.criterion()
            tell("before_backward")
            self.backward()
            tell("after_backward")
            tell("before_update")
            self.optimizer_step()
            tell("after_update")
            tell("after_training_iteration")
