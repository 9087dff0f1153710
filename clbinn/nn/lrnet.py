"""LR-net's layers (Shayer et al. 2018): random weights, sampled at the pre-activations instead of one by one.

A sum of many independent weights is nearly normal (central limit theorem), so a layer needs only the weights' means and
variances, and one normal draw for every output element:

    m = mean ∗ x,   v = variance ∗ x² + 0.001,   z = m + √v ε.

Training needs `clbinn.optim.LRNet`, which puts logits into the layers' parameters for the length of a training step and
weights in {-1, +1} otherwise; the layers look at what they hold.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbinn.optim.lrnet import StochasticWeight, moments, ternary_moments

__all__ = ["StochasticConv2d", "StochasticLinear", "to_stochastic"]

# Keeps the square root's gradient finite where the weights are certain (the authors' code).
VARIANCE_FLOOR = 1e-3


class _Stochastic(nn.Module):
    """Base of the layers: the weight, and the choice between sampling and using it as it is.

    Args:
        shape: Of the weight.
        ternary: Weights in {-1, 0, +1} instead of {-1, +1}. The parameter then has a leading dimension of 2: whether
            the weight is not 0, and whether it is positive.
    """

    def __init__(self, shape: torch.Size, ternary: bool) -> None:
        super().__init__()
        self.ternary = ternary
        self.weight = StochasticWeight(torch.zeros(2, *shape) if ternary else torch.zeros(shape))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.weight.holds_logits = not bool((self.weight.abs() == 1).all())  # a state has no place for it

    def _apply_weight(self, x: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if not self.weight.holds_logits:
            return product(x, ternary_weight(self.weight) if self.ternary else self.weight)
        mean, variance = (ternary_moments if self.ternary else moments)(self.weight)
        spread = product(x.square(), variance).add(VARIANCE_FLOOR).sqrt()
        return product(x, mean) + spread * torch.randn_like(spread)


class StochasticLinear(_Stochastic):
    """A fully connected layer without bias; (n, in_features) to (n, out_features).

    Args:
        in_features: Size of an input.
        out_features: Number of units.
        ternary: See the module's text.
    """

    def __init__(self, in_features: int, out_features: int, ternary: bool = False) -> None:
        super().__init__(torch.Size((out_features, in_features)), ternary)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_features) to (n, out_features)."""
        return self._apply_weight(x, F.linear)


class StochasticConv2d(_Stochastic):
    """A convolution of stride 1 without bias that keeps the image's size.

    Args:
        in_channels: Channels of an image.
        out_channels: Number of filters.
        kernel_size: Odd.
        ternary: See the module's text.

    Raises:
        ValueError: An even kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, ternary: bool = False) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd to keep the image's size; it is {kernel_size}")
        super().__init__(torch.Size((out_channels, in_channels, kernel_size, kernel_size)), ternary)
        self.padding = kernel_size // 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, height, width) to (n, out_channels, height, width)."""
        return self._apply_weight(x, lambda images, kernel: F.conv2d(images, kernel, padding=self.padding))


def ternary_weight(signs: Tensor) -> Tensor:
    """Two signs a weight, (2, …), to the weight in {-1, 0, +1}: the first says whether it is not 0."""
    return (1 + signs[0]) / 2 * signs[1]


def to_stochastic(
    network: nn.Module, ternary: bool = False, initialise: bool = True, keep_last: bool = True
) -> nn.Module:
    """A copy of a real network with random weights in its linear and convolutional layers.

    Args:
        network: Usually trained. Its layers have no bias, and its convolutions stride 1 and padding "same", except the
            last layer where that is kept.
        ternary: Weights in {-1, 0, +1}.
        initialise: Take the probabilities from the real weights (`initial_logits`); otherwise all are ½.
        keep_last: Leave the last such layer real valued, as LR-net does.

    Raises:
        ValueError: A layer that has no stochastic twin or stands in two places, or no layer to replace.
    """
    network = copy.deepcopy(network)
    _check_places(network)
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    names = names[:-1] if keep_last else names
    if not names:
        raise ValueError("to_stochastic found no linear or convolutional layer to replace")
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)  # noqa: S101
        twin = _twin(name, layer, ternary)
        if initialise:
            twin.weight.data.copy_(initial_logits(layer.weight.detach(), ternary))
        network.set_submodule(name, twin.to(layer.weight))
    return network


def initial_logits(weight: Tensor, ternary: bool) -> Tensor:
    """Logits whose mean weight follows a real weight W̄ = clip(W / std W, -1, 1).

    Binary: P(+1) = ½(1 + W̄). Ternary: P(0) = 0.95 - 0.9|W̄| and P(+1 | not 0) = ½(1 + W̄ / (1 - P(0))). All
    probabilities are kept in [0.05, 0.95].

    Returns:
        The weight's shape, with a leading 2 for ternary weights (not 0, positive).
    """
    spread = weight.std() if weight.numel() > 1 else weight.new_zeros(())
    scaled = (weight / torch.where(spread > 0, spread, 1)).clamp(-1, 1)
    if not ternary:
        return torch.logit((0.5 * (1 + scaled)).clamp(0.05, 0.95))
    not_zero = 1 - (0.95 - 0.9 * scaled.abs())
    positive = 0.5 * (1 + scaled / not_zero)
    return torch.logit(torch.stack([not_zero, positive]).clamp(0.05, 0.95))


def _check_places(network: nn.Module) -> None:
    places: dict[nn.Module, str] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear | nn.Conv2d) and module in places:
            raise ValueError(
                f"to_stochastic can't replace a layer that stands in two places, {places[module]!r} and {name!r}"
            )
        places[module] = name


def _twin(name: str, layer: nn.Linear | nn.Conv2d, ternary: bool) -> StochasticLinear | StochasticConv2d:
    biased = len(list(layer.parameters())) > 1
    if isinstance(layer, nn.Linear) and not biased:
        return StochasticLinear(layer.in_features, layer.out_features, ternary)
    if isinstance(layer, nn.Conv2d) and not biased and _keeps_size(layer):
        return StochasticConv2d(layer.in_channels, layer.out_channels, layer.kernel_size[0], ternary)
    raise ValueError(
        f"layer {name!r} ({layer}) has no stochastic twin: it needs bias=False and, for a convolution, stride 1, "
        "an odd square kernel and padding that keeps the size"
    )


def _keeps_size(layer: nn.Conv2d) -> bool:
    size = layer.kernel_size[0]
    plain = nn.Conv2d(1, 1, size, padding=size // 2)
    settings = ("kernel_size", "stride", "dilation", "groups", "padding_mode")
    same = layer.padding in ("same", plain.padding)
    return same and size % 2 == 1 and all(getattr(layer, setting) == getattr(plain, setting) for setting in settings)
