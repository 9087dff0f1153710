"""Synaptic metaplasticity in binary networks (Laborieux et al. 2021).

Each weight w = sign(h) has a hidden real weight h. The steps are Adam's, but one that would bring h closer to 0, and
so closer to a flip of w, is made smaller the farther h is from 0:

    d = m̂ / (√v̂ + ε)                                     Adam's direction for g + decay · h
    h ← h - lr · d                                        where sign(h) m ≤ 0
    h ← h - lr · (1 - tanh²(m_meta |h|)) · d              where sign(h) m > 0
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from avalanche.core import BasePlugin
from torch import Tensor, nn

from clbinn.checks import check_at_least
from clbinn.errors import UserError
from clbinn.optim._adam import check_adam
from clbinn.optim._flat import FlatState, Piece, State, write_signs
from clbinn.optim.binary import BinaryOptimizer
from clbinn.strategies.bayesbinn_plugin import BatchNorm, BayesBiNNPlugin, is_weight
from clbinn.strategies.naive import Naive

__all__ = ["MetaplasticAdam", "SynapticMetaplasticity", "consolidation"]


def consolidation(hidden: Tensor, direction: Tensor, metaplasticity: float) -> Tensor:
    """Factor on a step of `hidden` against `direction`: 1 - tanh²(m |h|) towards 0, else 1. In [0, 1]."""
    towards_zero = hidden * direction > 0
    return torch.where(towards_zero, 1 - torch.tanh(metaplasticity * hidden).square(), torch.ones_like(hidden))


class MetaplasticAdam(BinaryOptimizer):
    """Learns hidden real weights whose signs are the network's weights; see the module's equations.

    A hidden weight starts uniform on ±`init`. It is not clipped.

    Args:
        params: Parameters or parameter groups; all of them become binary.
        lr: Adam's step size.
        metaplasticity: m_meta ≥ 0; 0 is plain Adam on the hidden weights.
        weight_decay: Factor of h in the gradient, ≥ 0.
        betas: Adam's decay rates, each in [0, 1).
        eps: Adam's term in the denominator.
        init: Largest hidden weight at the start.
        seed: Of the start; None takes one from torch's global generator.

    Raises:
        ValueError: An option out of its range.
        TypeError: Parameters of half precision or of mixed types.
    """

    _trains_with_signs: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-3,
        metaplasticity: float = 1.35,
        weight_decay: float = 1e-7,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        init: float = 0.05,
        seed: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "metaplasticity": metaplasticity,
            "weight_decay": weight_decay,
            "betas": betas,
            "adam_eps": eps,
            "init": init,
            "step": 0,
        }
        super().__init__(params, defaults, seed)

    def restart(self) -> None:
        """Forget Adam's moments, as at the start of a task. The hidden weights stay."""
        for group, flat in self._groups():
            group["step"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                flat.tensors[name].zero_()

    def _check_group(self, group: dict[str, Any]) -> None:
        check_adam(group)
        for name in ("metaplasticity", "weight_decay", "init"):
            check_at_least(name, group[name], 0)

    def _start(self, group: dict[str, Any], flat: FlatState) -> State:
        hidden = self.noise.uniform(flat.numel, flat.dtype).mul_(2).sub_(1).mul_(group["init"])
        return {"hidden": hidden, "exp_avg": torch.zeros_like(hidden), "exp_avg_sq": torch.zeros_like(hidden)}

    def _update(self, group: dict[str, Any], piece: Piece) -> None:
        hidden, first, second = (piece.state[name] for name in ("hidden", "exp_avg", "exp_avg_sq"))
        gradient = piece.gradient.add_(hidden, alpha=group["weight_decay"])
        step, (beta1, beta2) = group["step"] + 1, group["betas"]
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (second / (1 - beta2**step)).sqrt_().add_(group["adam_eps"])
        direction = first / (1 - beta1**step) / scale
        hidden.sub_(direction * consolidation(hidden, first, group["metaplasticity"]), alpha=group["lr"])

    def _prediction_weights(self, group: dict[str, Any], piece: Piece) -> None:
        write_signs(piece, "hidden")


class SynapticMetaplasticity(Naive):
    """Synaptic metaplasticity as an Avalanche strategy; Adam's moments start afresh at each task.

    Args:
        model: Any module; its matrices and kernels become binary, biases and gains stay real and are trained by Adam.
        lr: Adam's step size.
        metaplasticity: m_meta ≥ 0.
        weight_decay: Factor of h in the gradient, ≥ 0.
        batch_norm: Whose statistics normalise at evaluation, see `BayesBiNNPlugin`.
        **strategy: Arguments of `Naive`, without `optimizer`.

    Raises:
        UserError: An option is out of its range.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        lr: float = 5e-3,
        metaplasticity: float = 1.35,
        weight_decay: float = 1e-7,
        batch_norm: BatchNorm = "running",
        plugins: Sequence[BasePlugin] | None = None,
        seed: int = 0,
        **strategy: Any,
    ) -> None:
        weights = [p for name, p in model.named_parameters() if is_weight(name, p)]
        try:
            optimizer = MetaplasticAdam(weights, lr, metaplasticity, weight_decay, seed=seed)
        except ValueError as error:
            raise UserError(f"SynapticMetaplasticity: {error}") from None
        plugin = BayesBiNNPlugin(
            mc_samples=0,
            batch_norm=batch_norm,
            real_optimizer=functools.partial(torch.optim.Adam, lr=lr),
            seed=seed,
        )
        super().__init__(model=model, optimizer=optimizer, plugins=[*(plugins or ()), plugin], seed=seed, **strategy)
        plugin.adopt(self)
        self.plugin = plugin

    def _after_task(self) -> None:
        super()._after_task()
        self.optimizer.restart()
        if self.plugin.real_optimizer is not None:
            self.plugin.real_optimizer.state.clear()
