"""BayesBiNN in Avalanche: the prior of each task is the λ learned on the task before."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.training.plugins.evaluation import default_evaluator
from torch import nn

from clbinn import optim
from clbinn.checks import check_positive
from clbinn.optim.bayesbinn import TrainingWeights
from clbinn.optim.binary import BinaryOptimizer
from clbinn.predict import Average
from clbinn.seeding import derive_seed
from clbinn.strategies.bayesbinn_plugin import BatchNorm, BayesBiNNPlugin, is_weight
from clbinn.strategies.naive import Naive

__all__ = ["BayesBiNN"]


class BayesBiNN(Naive):
    """BayesBiNN as an Avalanche strategy; the defaults are Table 13.

    Args:
        model: Any module. Its matrices and kernels become binary; biases and gains, where it has any, stay real and
            are trained by Adam; frozen layers stay as they are.
        optimizer: A ready binary optimizer instead of the options from `lr` to `num_data` (but for `lr_end`).
        lr: α ≥ 0 at the start of each task.
        lr_end: α at its end, by a cosine; None keeps it.
        temperature: τ > 0 of the relaxation.
        num_samples: S ≥ 1, relaxed samples a training step.
        momentum: β in [0, 1).
        init_natural: |λ| at the start, ≥ 0; its sign is random.
        prior_weight: Factor ≥ 0 on λ - λ0; 1 is the paper.
        eps: Of the gradient scale, > 0.
        training_weights: See `clbinn.optim.BayesBiNN`.
        num_data: N; None takes the size of each experience's training set, or leaves that of a ready `optimizer`.
        carry_prior: Whether λ0 becomes the previous task's λ; False leaves it at 0.
        mc_samples: C of the mean prediction, ≥ 0; 0 is the mode.
        batch_norm: Whose statistics normalise at evaluation: `running`, `task` or `batch`; see `BayesBiNNPlugin`.
        average: What the mean prediction averages: `probabilities` (Eq. 26), or `logits` as in the authors' code.
        binary: (name, parameter) → whether it is binary.
        real_lr: Adam's learning rate for what stays real.
        seed: Of initial λ, samples, data order and evaluation draws.
        criterion: Loss with mean reduction.
        train_mb_size: Training batch.
        train_epochs: Epochs per experience.
        eval_mb_size: Evaluation batch; decides results only for `batch_norm="batch"`.
        device: Where the model is trained.
        plugins: More plugins.
        evaluator: Avalanche's evaluation plugin.
        eval_every: As in Avalanche.
        peval_mode: As in Avalanche.

    Raises:
        ValueError: An option out of its range, or given together with an `optimizer` that would not heed it.
        TypeError: `optimizer` is no binary optimizer.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: BinaryOptimizer | None = None,
        lr: float = 1e-3,
        lr_end: float | None = 1e-16,
        temperature: float = 1e-2,
        num_samples: int = 1,
        momentum: float = 0.0,
        init_natural: float = 10.0,
        prior_weight: float = 1.0,
        eps: float = 1e-10,
        training_weights: TrainingWeights = "relaxed",
        num_data: float | None = None,
        carry_prior: bool = True,
        mc_samples: int = 100,
        batch_norm: BatchNorm = "running",
        average: Average = "probabilities",
        binary: Callable[[str, nn.Parameter], bool] = is_weight,
        real_lr: float = 1e-3,
        seed: int = 0,
        criterion: Any = None,
        train_mb_size: int = 100,
        train_epochs: int = 100,
        eval_mb_size: int = 1000,
        device: str | torch.device = "cpu",
        plugins: Sequence[Any] | None = None,
        evaluator: Any = default_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
    ) -> None:
        check_positive("real_lr", real_lr)
        from_experience = optimizer is None and num_data is None
        options: dict[str, Any] = {
            "num_data": num_data,
            "lr": lr,
            "temperature": temperature,
            "num_samples": num_samples,
            "momentum": momentum,
            "init_natural": init_natural,
            "prior_weight": prior_weight,
            "eps": eps,
            "training_weights": training_weights,
        }
        if optimizer is None:
            weights = [p for name, p in model.named_parameters() if binary(name, p)]
            options["num_data"] = 1 if num_data is None else num_data
            optimizer = optim.BayesBiNN(weights, **options, seed=derive_seed(seed, "bayesbinn"))
        elif isinstance(optimizer, BinaryOptimizer):
            _check_defaults(options)
        plugin = BayesBiNNPlugin(
            mc_samples,
            batch_norm,
            average,
            carry_prior,
            lr_end,
            "experience" if from_experience else "optimizer",
            binary,
            functools.partial(torch.optim.Adam, lr=real_lr),
            seed,
        )
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[*(plugins or []), plugin],
            evaluator=evaluator,
            eval_every=eval_every,
            seed=seed,
            peval_mode=peval_mode,
        )
        plugin.adopt(self)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in Avalanche; after an exception the model holds the mode again."""
        try:
            return super().train(*args, **kwargs)
        except BaseException:
            self.optimizer.discard()
            raise


def _check_defaults(options: dict[str, Any]) -> None:
    """Raise ValueError for options that are not at their defaults: a ready optimizer has its own."""
    parameters = inspect.signature(BayesBiNN.__init__).parameters
    for name, value in options.items():
        if value != parameters[name].default:
            raise ValueError(f"{name} belongs to the optimizer that the strategy makes: give `optimizer` or {name}")
