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
        multiply: Both → weight @ rawᵀ, (units, n), float32.
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
        return weight @ raw.to(torch.float32).T


BY_FLOATS = Way(lambda raw: raw, lambda weight: weight.to(torch.float32), _multiply_floats)


# --- unsigned by signed bytes: Σ w raw = 2 Σ b (raw - 128) + 128 Σ w + c, bits b, c = 128 features - Σ raw ------------


def _inputs_of_onednn(raw: Tensor) -> tuple[Tensor, ...]:
    signed = raw.bitwise_xor(128).view(torch.int8).contiguous()  # oneDNN ignores strides
    rest = raw.sum(1, dtype=torch.int32).neg_().add_(128 * raw.shape[1]).to(torch.float32)
    return torch.ops.onednn.qlinear_prepack(signed, None), rest.new_ones(1), raw.new_zeros(1, dtype=torch.int64), rest


def _weights_of_onednn(weight: Tensor) -> tuple[Tensor, Tensor]:
    bits = (weight > 0).view(torch.uint8).contiguous()
    return bits, weight.sum(1, keepdim=True, dtype=torch.float32)


def _multiply_by_onednn(inputs: tuple[Tensor, ...], weight: tuple[Tensor, Tensor]) -> Tensor:
    packed, one, zero, rest = inputs
    out: Tensor = torch.ops.onednn.qlinear_pointwise(
        weight[0], 2.0, 0, packed, one, zero, rest, 1.0, 0, torch.float32, "none", [], ""
    )
    return out.add_(weight[1], alpha=128)


BY_ONEDNN = Way(_inputs_of_onednn, _weights_of_onednn, _multiply_by_onednn)


# --- signed by signed bytes: Σ w (raw - 128) + 128 Σ w ----------------------------------------------------------------


def _weights_as_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    narrow = weight.to(torch.int8)
    return narrow, narrow.sum(1, keepdim=True, dtype=torch.int32).mul_(128)


def _multiply_integers(signed: Tensor, weight: tuple[Tensor, Tensor]) -> Tensor:
    return torch._int_mm(weight[0], signed).add_(weight[1]).to(torch.float32)


BY_INTEGERS = Way(lambda raw: raw.bitwise_xor(128).view(torch.int8).T, _weights_as_integers, _multiply_integers)


# --- what is not zero alone -------------------------------------------------------------------------------------------

BY_SKIPPING_ZEROS = Way(sparse_bytes.inputs, sparse_bytes.weights, sparse_bytes.multiply)

FEATURES = 2**16  # 255 times as much is below 2²⁴
WAYS: tuple[Way, ...] = (BY_FLOATS, BY_ONEDNN, BY_INTEGERS, BY_SKIPPING_ZEROS)


class ByteProducts:
    """weight @ rawᵀ on a CPU, for several batches and many sets of weights.

    Args:
        batches: Of (n, features) each, uint8.
    """

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.way = quickest(_tenths(batches))
        self._inputs = [[self.way.inputs(part) for part in torch.split(raw, FEATURES, 1)] for raw in batches]

    def weights(self, weight: Tensor) -> list[Any]:
        """Weights of ±1, (units, features), made ready."""
        return [self.way.weights(part) for part in torch.split(weight, FEATURES, 1)]

    def multiply(self, batch: int, weights: list[Any]) -> Tensor:
        """(units, n), float32, rounded once."""
        parts = [self.way.multiply(*both) for both in zip(self._inputs[batch], weights, strict=True)]
        return parts[0] if len(parts) == 1 else torch.stack(parts).double().sum(0).float()


def _tenths(batches: Sequence[Tensor]) -> int:
    """How many tenths of the bytes are not zero, rounded up."""
    size = sum(raw.numel() for raw in batches)
    return math.ceil(10 * sum(int(raw.count_nonzero()) for raw in batches) / max(size, 1))


@functools.cache
def quickest(tenths: int = 10) -> Way:
    """The way that takes the least time here, found once in a process by a tenth of a second or two of trying.

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
    except (AttributeError, NotImplementedError, RuntimeError):
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
