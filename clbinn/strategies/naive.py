"""Fine-tuning, task after task, with nothing against forgetting; and what every strategy here is built on."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.core import BasePlugin
from avalanche.training.plugins.evaluation import EvaluationPlugin, default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import nn
from torch.optim import Adam, Optimizer

from clbinn.benchmarks import FastLoadingPlugin
from clbinn.benchmarks.online import Parts
from clbinn.errors import UserError
from clbinn.strategies._loop import LeanEpoch

__all__ = ["Naive"]


class Naive(LeanEpoch, SupervisedTemplate):  # type: ignore[misc]
    """Fine-tuning: the network of the last task learns the next one. The floor of every comparison.

    Args:
        model: Any network; its outputs are logits of shape `(batch, classes)`.
        optimizer: The optimizer of `model.parameters()`. It goes on through all tasks with its state, as Avalanche
            does it. `None` is Adam, which starts afresh at each task.
        criterion: The loss of a mini-batch, averaged over its samples.
        lr: Step size of the default Adam (1e-3), > 0; not together with `optimizer`.
        train_mb_size: Samples in a training mini-batch.
        train_epochs: Passes over the data of each task.
        eval_mb_size: Samples in an evaluation mini-batch.
        device: Where model and data live.
        plugins: Avalanche plugins.
        evaluator: Avalanche's metrics and loggers, or a function that makes them.
        eval_every: Epochs between evaluations during training; -1 is never.
        seed: Seed of what the strategy draws, and of the order of the data in the toolkit's own streams.
        **template: Other options of Avalanche's `SupervisedTemplate`.

    Raises:
        UserError: An option is out of its range.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        criterion: Callable[..., torch.Tensor] | None = None,
        lr: float | None = None,
        train_mb_size: int = 256,
        train_epochs: int = 1,
        eval_mb_size: int = 1000,
        device: str | torch.device = "cpu",
        plugins: Sequence[BasePlugin] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] | None = default_evaluator,
        eval_every: int = -1,
        seed: int = 0,
        **template: Any,
    ) -> None:
        if optimizer is not None and lr is not None:
            raise UserError("lr belongs to the default optimizer: give `optimizer` or `lr`, not both.")
        if lr is not None and not lr > 0:
            raise UserError(f"lr must be greater than 0, not {lr}.")
        plugins = list(plugins or ())
        if not any(isinstance(plugin, FastLoadingPlugin) for plugin in plugins):
            plugins.insert(0, FastLoadingPlugin(seed))
        self.own_optimizer = optimizer is None
        self.seed = seed
        self._parts = Parts()
        super().__init__(
            model=model,
            optimizer=Adam(model.parameters(), lr=lr or 1e-3, fused=True) if optimizer is None else optimizer,
            criterion=nn.CrossEntropyLoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            **template,
        )

    def _before_training_exp(self, **kwargs: Any) -> None:
        self._parts.begin(self.experience)
        super()._before_training_exp(**kwargs)

    def _after_training_exp(self, **kwargs: Any) -> None:
        super()._after_training_exp(**kwargs)
        if self._parts.end(self.experience):
            self._after_task()

    def _after_task(self) -> None:
        """After the last part of a task, or the whole."""
        if self.own_optimizer:
            self.optimizer.state.clear()
