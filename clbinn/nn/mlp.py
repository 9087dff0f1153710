"""Multi-layer perceptrons: Tables 5 and 12 of the appendix, and those of the synthetic problems."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from clbinn.checks import check_choice
from clbinn.nn.lean import BatchNorm1d, Dropout
from clbinn.nn.mean_field import MeanFieldLinear

__all__ = ["MLP", "FanInScale", "normalisation"]

Norm = Literal["batch", "layer", "scale", "none"]
Order = Literal["relu_norm", "norm_relu"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class FanInScale(nn.Module):
    """Divides pre-activations by √fan_in, which keeps the variance of sums of ±1 at one."""

    def __init__(self, fan_in: int) -> None:
        super().__init__()
        self.fan_in = fan_in

    def forward(self, x: Tensor) -> Tensor:
        """(…, units) → (…, units)."""
        return x / math.sqrt(self.fan_in)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"fan_in={self.fan_in}"


def normalisation(norm: Norm, features: int, fan_in: int, momentum: float, eps: float) -> nn.Module:
    """The normalisation after a linear layer; none of them has a learned gain or bias."""
    if norm == "batch":
        return BatchNorm1d(features, eps, momentum)
    if norm == "layer":
        return nn.LayerNorm(features, eps=eps, elementwise_affine=False)
    if norm == "scale":
        return FanInScale(fan_in)
    return nn.Identity()


class MLP(nn.Module):
    """Fully connected layers, each but the last followed by an activation and a normalisation.

    `MLP(784, [100, 100], 10)` is Table 12: FC → ReLU → BN twice, then FC → BN. The tables print the last layer with as
    many units as the hidden ones; here it has one for each class.

    Args:
        in_features: Size of a flattened input, ≥ 1.
        hidden: Units of the hidden layers.
        out_features: Number of classes (or outputs).
        order: `relu_norm` as the tables print it, `norm_relu` as in the authors' code. With `scale` the division comes
            right after the linear layer in both.
        norm: `batch`, `layer`, `scale` (pre-activations over √fan_in, nothing else) or `none`; no gain, no bias.
        dropout: Probability before every linear layer, in [0, 1); Table 5 has 0.2.
        bias: Whether the linear layers have a bias. A binary optimizer makes it binary too.
        activation: `relu` or `tanh`.
        norm_output: Whether the last layer is normalised too, as in Tables 5 and 12.
        momentum: Of the running statistics of batch normalisation, as the authors' code has it.
        eps: Of batch and layer normalisation, as the authors' code has it.
        logit_scale: Factor on the outputs.
        mean_field: Whether the linear layers draw their pre-activations (`MeanFieldLinear`).

    Raises:
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        order: Order = "relu_norm",
        norm: Norm = "batch",
        dropout: float = 0.0,
        bias: bool = False,
        activation: Literal["relu", "tanh"] = "relu",
        norm_output: bool = True,
        momentum: float = 0.15,
        eps: float = 1e-4,
        logit_scale: float = 1.0,
        mean_field: bool = False,
    ) -> None:
        super().__init__()
        check_choice("order", order, ("relu_norm", "norm_relu"))
        check_choice("norm", norm, ("batch", "layer", "scale", "none"))
        check_choice("activation", activation, tuple(ACTIVATIONS))
        sizes = [in_features, *hidden, out_features]
        if min(sizes) < 1:
            raise ValueError(f"layer sizes must be at least 1, got {sizes}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout!r}")
        self.in_features, self.out_features = in_features, out_features
        self.order, self.norm, self.logit_scale = order, norm, logit_scale
        layers: list[nn.Module] = [nn.Flatten()]
        for depth, (fan_in, units) in enumerate(pairwise(sizes), start=1):
            last = depth == len(sizes) - 1
            if dropout:
                layers.append(Dropout(dropout))
            layers.append((MeanFieldLinear if mean_field else nn.Linear)(fan_in, units, bias=bias))
            after = normalisation(norm, units, fan_in, momentum, eps)
            if last:
                layers.extend([after] if norm_output else [])
            elif order == "relu_norm" and norm != "scale":
                layers.extend([ACTIVATIONS[activation](), after])
            else:
                layers.extend([after, ACTIVATIONS[activation]()])
        self.layers = nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.Identity)))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, …) with `in_features` numbers each → logits (batch, out_features)."""
        out: Tensor = self.layers(x)
        return out if self.logit_scale == 1 else out * self.logit_scale

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"logit_scale={self.logit_scale}" if self.logit_scale != 1 else ""
