"""What lies between two products of an MLP in evaluation, in one pass over memory.

ReLU and layers that scale and shift each unit, in the order of the network, are for each unit

    y = c max(a x + b, 0) + d

or y = a x + b without ReLU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from clbinn.compiled import compiled
from clbinn.nn.mlp import FanInScale

__all__ = ["Folded", "fold"]

Array = NDArray[Any]
Numbers = tuple[Array, Array, Array, Array]
_0 = np.float32(0)


@dataclass(frozen=True)
class Folded:
    """The numbers of the equation, (units,) each, in float64.

    Attributes:
        before: a and b.
        relu: Whether there is a ReLU; without one, `after` is (1, 0).
        after: c and d.
    """

    before: tuple[Array, Array]
    relu: bool
    after: tuple[Array, Array]

    def numbers(self, samples: int, scale: float = 1.0, shift: Array | None = None) -> Numbers:
        """a, b, c and d for the units of so many networks, if it is scale · x + shift that follows the product.

        Args:
            samples: Number of networks.
            scale: A factor.
            shift: (samples, units), or None for 0.
        """
        (a, b), (c, d) = self.before, self.after
        b = b if shift is None else a * shift + b

        def of_all(each: Array) -> Array:
            return np.broadcast_to(each, (samples, len(a))).astype(np.float32).reshape(-1)

        return of_all(a * scale), of_all(b), of_all(c), of_all(d)

    def apply(self, x: Tensor, numbers: Numbers) -> Tensor:
        """In place.

        Args:
            x: (c, units, n), float32, on a CPU; in memory in this order, or with all units of an input side by side.
            numbers: Of these networks.
        """
        lines = x.view(x.shape[0] * x.shape[1], x.shape[2])
        if x.is_contiguous():
            by_rows(lines.numpy(), *numbers, self.relu)
        else:
            by_columns(lines.T.numpy(), *numbers, self.relu)
        return x


def fold(layers: Sequence[nn.Module], units: int) -> Folded | None:
    """The layers as one equation; None where there is none.

    Args:
        layers: ReLU at most once, batch normalisations with running statistics, `FanInScale`.
        units: Of the product before them.
    """
    scale, shift = np.ones(units), np.zeros(units)
    before: tuple[Array, Array] | None = None
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d):
            mean, variance = layer.running_mean, layer.running_var
            if mean is None or variance is None:
                return None
            factor = 1 / np.sqrt(variance.double().cpu().numpy() + layer.eps)
            scale, shift = scale * factor, (shift - mean.double().cpu().numpy()) * factor
        elif isinstance(layer, FanInScale):
            scale, shift = scale / math.sqrt(layer.fan_in), shift / math.sqrt(layer.fan_in)
        elif isinstance(layer, nn.ReLU) and before is None:
            before = scale, shift
            scale, shift = np.ones(units), np.zeros(units)
        else:
            return None
    if before is None:
        return Folded((scale, shift), False, (np.ones(units), np.zeros(units)))
    return Folded(before, True, (scale, shift))


@compiled
def by_rows(x: Array, a: Array, b: Array, c: Array, d: Array, relu: bool) -> None:
    """The equation for x (units, n), in place."""
    for i in range(x.shape[0]):
        row, factor, offset, last_factor, last_offset = x[i], a[i], b[i], c[i], d[i]
        for j in range(row.size):
            y = row[j] * factor + offset
            if relu:
                y = (_0 if y <= _0 else y) * last_factor + last_offset
            row[j] = y


@compiled
def by_columns(x: Array, a: Array, b: Array, c: Array, d: Array, relu: bool) -> None:
    """The equation for x (n, units), in place."""
    for i in range(x.shape[0]):
        row = x[i]
        for j in range(row.size):
            y = row[j] * a[j] + b[j]
            if relu:
                y = (_0 if y <= _0 else y) * c[j] + d[j]
            row[j] = y
