"""Exact products of bytes with weights of ±1, by whichever way is the quickest on this processor for these bytes.

A processor with instructions for eight-bit dot products multiplies bytes three times as fast as floats; others are
twice as fast by one of torch's ways and thirty times as slow by another, and quicker still where most of the bytes are
zeros and are skipped. For as many as `FEATURES` all of them give the same numbers, sums of integers that float32 holds
exactly.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clbinn.nn import sparse_bytes

__all__ = ["WAYS", "ByteProducts", "Way", "quickest"]


@dataclass(frozen=True)
class Way:
    """How to multiply; both sides are made ready once for many products.

    Attributes:
        inputs: raw (n, features), uint8 → what `multiply` takes.
        weights: (units, features), each ±1 → what `multiply` takes.
        multiply: Both → raw @ weightᵀ, (n, units), float32.
    """

    inputs: Callable[[Tensor], Any]
    weights: Callable[[Tensor], Any]
    multiply: Callable[[Any, Any], Tensor]

    def __call__(self, raw: Tensor, weight: Tensor) -> Tensor:
        """The product of these alone."""
        return self.multiply(self.inputs(raw), self.weights(weight))


# --- floats, whose sums are exact below 2²⁴ ---------------------------------------------------------------------------


def _multiply_floats(raw: Tensor, weight: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return raw.to(torch.float32) @ weight.T


BY_FLOATS = Way(lambda raw: raw, lambda weight: weight.to(torch.float32), _multiply_floats)


# --- unsigned by signed bytes, summed in 32 bits ----------------------------------------------------------------------


def _weights_of_onednn(weight: Tensor) -> tuple[Tensor, ...]:
    narrow = weight.to(torch.int8).contiguous()  # oneDNN ignores strides
    one, zero = torch.ones(1, dtype=torch.float32, device="cpu"), torch.zeros(1, dtype=torch.int64, device="cpu")
    return torch.ops.onednn.qlinear_prepack(narrow, None), one, zero


def _multiply_by_onednn(raw: Tensor, weight: tuple[Tensor, ...]) -> Tensor:
    out: Tensor = torch.ops.onednn.qlinear_pointwise(raw, 1.0, 0, *weight, None, 1.0, 0, torch.float32, "none", [], "")
    return out


BY_ONEDNN = Way(lambda raw: raw.contiguous(), _weights_of_onednn, _multiply_by_onednn)


# --- signed by signed bytes: Σ w (raw - 128) + 128 Σ w ----------------------------------------------------------------


def _weights_as_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    narrow = weight.to(torch.int8)
    return narrow.T, narrow.sum(1, dtype=torch.int32).mul_(128)


def _multiply_integers(signed: Tensor, weight: tuple[Tensor, Tensor]) -> Tensor:
    return torch._int_mm(signed, weight[0]).add_(weight[1]).to(torch.float32)


BY_INTEGERS = Way(lambda raw: raw.bitwise_xor(128).view(torch.int8), _weights_as_integers, _multiply_integers)


# --- what is not zero alone -------------------------------------------------------------------------------------------

BY_SKIPPING_ZEROS = Way(sparse_bytes.inputs, sparse_bytes.weights, sparse_bytes.multiply)

FEATURES = 2**16  # 255 times as much is below 2²⁴
WAYS: tuple[Way, ...] = (BY_FLOATS, BY_ONEDNN, BY_INTEGERS, BY_SKIPPING_ZEROS)


class ByteProducts:
    """raw @ weightᵀ on a CPU, for several batches and many sets of weights.

    Args:
        batches: Of (n, features) each, uint8.
    """

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.way = quickest(_tenths(batches)) if any(raw.numel() for raw in batches) else BY_FLOATS
        self._inputs = [[self.way.inputs(part) for part in torch.split(raw, FEATURES, 1)] for raw in batches]

    def weights(self, weight: Tensor) -> list[Any]:
        """Weights of ±1, (units, features), made ready."""
        return [self.way.weights(part) for part in torch.split(weight, FEATURES, 1)]

    def multiply(self, batch: int, weights: list[Any]) -> Tensor:
        """(n, units), float32, rounded once."""
        parts = [self.way.multiply(*both) for both in zip(self._inputs[batch], weights, strict=True)]
        return parts[0] if len(parts) == 1 else torch.stack(parts).double().sum(0).float()


def _tenths(batches: Sequence[Tensor]) -> int:
    """How many tenths of the bytes are not zero, rounded up."""
    size = sum(raw.numel() for raw in batches)
    return math.ceil(10 * sum(int(raw.count_nonzero()) for raw in batches) / max(size, 1))


@functools.cache
def quickest(tenths: int = 10) -> Way:
    """The way that takes the least time here, found by a tenth of a second or two of trying, once for each argument.

    Args:
        tenths: How many tenths of the bytes are not zero, 0 to 10.
    """
    contenders = [way for way in WAYS if _works(way)]
    for size in (64, 512):  # what is slow with little does not get more
        seconds = _seconds(contenders, *_operands(size, tenths))
        quick = [way for way in contenders if seconds[way] < 4 * min(seconds.values())]
        contenders = sorted(quick, key=lambda way: seconds[way])
    return contenders[0]


def _operands(size: int, tenths: int = 10, features: int = 784) -> tuple[Tensor, Tensor]:
    """Bytes, so many tenths of which are not zero, and weights, each (size, features)."""
    numbers = torch.arange(size * features, device="cpu").view(size, features)
    raw = numbers.remainder(251).add_(1).where(numbers.remainder(10) < tenths, 0)
    return raw.to(torch.uint8), numbers.remainder(7).sub(3.5).sign().to(torch.float32)


def _works(way: Way) -> bool:
    """Whether this build of torch has it for this processor."""
    raw, weight = _operands(16)
    try:
        return torch.equal(way(raw, weight), BY_FLOATS(raw, weight))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False


def _seconds(ways: Sequence[Way], raw: Tensor, weight: Tensor) -> dict[Way, float]:
    """The best of five turns of each, for others use the processor too."""
    best = dict.fromkeys(ways, math.inf)
    ready = {way: (way.inputs(raw), way.weights(weight)) for way in ways}
    for _ in range(5):
        for way, both in ready.items():
            start = time.perf_counter()
            way.multiply(*both)
            best[way] = min(best[way], time.perf_counter() - start)
    return best
