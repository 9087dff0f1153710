"""LR-net: probabilities of binary or ternary weights, learned by local reparameterisation (Shayer et al. 2018).

A weight is +1 with probability σ(θ). The layers of `clbinn.nn.lrnet` draw their pre-activations from the normal
distribution that the weights' means and variances give, so the gradient in θ is the ordinary one, and Adam follows it.
Added to the gradient: that of the penalty c Σ a (1 - a), a = σ(θ), which pushes probabilities to 0 or 1, or of c' Σ θ²;
and an L2 term on the real weights (½ c'' ‖w‖²) of a last layer that stays real.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from clbinn.checks import check_at_least
from clbinn.optim._adam import adam_step, check_adam
from clbinn.optim._flat import FlatState, Piece, State, write_signs
from clbinn.optim._noise import Noise, tanh
from clbinn.optim.binary import BinaryOptimizer

__all__ = ["LRNet", "StochasticWeight", "moments", "ternary_moments"]


class StochasticWeight(nn.Parameter):
    """A parameter of a stochastic layer: logits while it trains (`holds_logits`), ±1 when it predicts."""

    holds_logits = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Keep what it holds."""
        twin: Self = super().__deepcopy__(memo)  # type: ignore[no-untyped-call]
        twin.holds_logits = self.holds_logits
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Stay what it is through a pickle."""
        return _stochastic_weight, (self.data, self.requires_grad, self.holds_logits)


def _stochastic_weight(data: Tensor, requires_grad: bool, holds_logits: bool) -> StochasticWeight:
    weight = StochasticWeight(data, requires_grad)
    weight.holds_logits = holds_logits
    return weight


def moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean 2a - 1 and variance 1 - (2a - 1)² of a weight that is +1 with probability a = σ(θ), else -1."""
    mean = torch.tanh(logits / 2)
    return mean, 1 - mean.square()


def ternary_moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a weight in {-1, 0, +1}.

    Args:
        logits: (2, …): of the weight not being 0, and of its being +1 if it is not 0.

    Returns:
        Two tensors of the weight's shape.
    """
    not_zero = torch.sigmoid(logits[0])
    mean = not_zero * torch.tanh(logits[1] / 2)
    return mean, not_zero - mean.square()


class LRNet(BinaryOptimizer):
    """Adam on the logits of stochastic layers and on whatever else is real; see the module's text.

    Logits start from what the `StochasticWeight`s hold (`clbinn.nn.lrnet.to_stochastic` takes them from a trained
    network). Other parameters (gain and bias of a normalisation, a real last layer) stay real valued and learn by the
    same Adam.

    Args:
        params: Parameters or parameter groups, of a network with stochastic layers.
        lr: Adam's step size (LR-net: 1e-2, times 0.1 every 100 epochs).
        probability_penalty: c ≥ 0 of Σ a (1 - a); LR-net's binary networks have 1e-6.
        logit_penalty: c' ≥ 0 of Σ θ²; LR-net's ternary networks have 1e-11, and no other penalty on probabilities.
        weight_decay: c'' ≥ 0 of ½ ‖w‖² on real weights of two dimensions or more.
        betas: Adam's decay rates, each in [0, 1).
        eps: Adam's term in the denominator.
        seed: Of the draws of `sample_weights`; None takes one from torch's global generator.

    Raises:
        ValueError: An option out of its range, or no stochastic layer's weight among the parameters.
        TypeError: Parameters of half precision or of mixed types.
    """

    _by_parameter: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        probability_penalty: float = 1e-6,
        logit_penalty: float = 0.0,
        weight_decay: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        seed: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "probability_penalty": probability_penalty,
            "logit_penalty": logit_penalty,
            "weight_decay": weight_decay,
            "betas": betas,
            "adam_eps": eps,
            "step": 0,
        }
        super().__init__(params, defaults, seed)
        if not any(isinstance(p, StochasticWeight) for p in self.parameters()):
            raise ValueError("LRNet needs stochastic layers: convert the network by clbinn.nn.lrnet.to_stochastic")

    def logits(self) -> list[Tensor]:
        """θ of the stochastic weights, in parameter order: views, not copies."""
        self._synchronise()
        values = (pair for _, flat in self._groups() for pair in _split(flat, flat.tensors["value"]))
        return [view for view, stochastic in values if stochastic]

    def open_sample(self) -> None:
        """See `BinaryOptimizer.open_sample`; the layers sample from now on."""
        super().open_sample()
        self._mark(holds_logits=True)

    def restore(self) -> None:
        """See `BinaryOptimizer.restore`; the layers use their weights as they are from now on."""
        super().restore()
        self._mark(holds_logits=False)

    def _mark(self, holds_logits: bool) -> None:
        for p in self.parameters():
            if isinstance(p, StochasticWeight):
                p.holds_logits = holds_logits

    def _check_group(self, group: dict[str, Any]) -> None:
        check_adam(group)
        for name in ("probability_penalty", "logit_penalty", "weight_decay"):
            check_at_least(name, group[name], 0)

    def _start(self, group: dict[str, Any], flat: FlatState) -> State:
        if any(isinstance(p, StochasticWeight) and not p.holds_logits for p in flat.params):
            raise ValueError(
                "these stochastic layers hold the ±1 of another LRNet, which has their logits: go on with that "
                "optimizer, or with its state_dict() in a new one for new layers"
            )
        value = torch.cat([p.detach().reshape(-1) for p in flat.params])
        return {"value": value, "exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)}

    def _training_weights(self, group: dict[str, Any], piece: Piece) -> None:
        piece.weights.copy_(piece.state["value"])

    def _update(self, group: dict[str, Any], piece: Piece) -> None:
        value, gradient = piece.state["value"], piece.gradient
        if isinstance(piece.param, StochasticWeight):
            if group["probability_penalty"]:
                mean = tanh(value / 2)  # d/dθ a (1 - a) = a (1 - a) (1 - 2a) = -¼ (1 - mean²) mean
                gradient.sub_(mean * (1 - mean.square()), alpha=group["probability_penalty"] / 4)
            gradient.add_(value, alpha=2 * group["logit_penalty"])
        elif piece.param is not None and piece.param.dim() > 1:
            gradient.add_(value, alpha=group["weight_decay"])
        adam_step([value], [gradient], [piece.state["exp_avg"]], [piece.state["exp_avg_sq"]], group)

    def _end_update(self, group: dict[str, Any], flat: FlatState) -> None:
        super()._end_update(group, flat)
        self._mark(holds_logits=False)  # a step that writes the ±1 itself does not call restore()

    def _prediction_weights(self, group: dict[str, Any], piece: Piece) -> None:
        if isinstance(piece.param, StochasticWeight):
            write_signs(piece, "value")
        else:
            piece.weights.copy_(piece.state["value"])

    def _draw(self, group: dict[str, Any], flat: FlatState, noise: Noise) -> Tensor:
        weights = flat.tensors["value"].clone()
        for view, stochastic in _split(flat, weights):
            if stochastic:
                noise.draw_(view.sigmoid_())
        return weights


def _split(flat: FlatState, tensor: Tensor) -> list[tuple[Tensor, bool]]:
    """The views of a flat tensor, and whether each is of a stochastic weight."""
    return [(view, isinstance(p, StochasticWeight)) for view, p in zip(flat.views(tensor), flat.params, strict=True)]
