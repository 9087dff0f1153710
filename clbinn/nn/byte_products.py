"""Exact products of bytes with weights of ±1, by whichever of torch's ways is the quickest on this processor.

A processor with instructions for eight-bit dot products multiplies bytes three times as fast as floats; others are
twice as fast by one of torch's ways and thirty times as slow by another. All give the same numbers, sums of integers
that float32 holds exactly below 2²⁴ and rounds once above.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["WAYS", "byte_product", "quickest"]

Way = Callable[[Tensor, Tensor], Tensor]


def by_onednn(raw: Tensor, weight: Tensor) -> Tensor:
    """Unsigned by signed bytes, summed in 32 bits."""
    one, zero = raw.new_ones(1, dtype=torch.float32), raw.new_zeros(1, dtype=torch.int64)
    packed = torch.ops.onednn.qlinear_prepack(weight.to(torch.int8).contiguous(), None)  # it does not heed strides
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        raw, 1.0, 0, packed, one, zero, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


def by_integers(raw: Tensor, weight: Tensor) -> Tensor:
    """Signed by signed bytes: Σ (raw - 128) w + 128 Σ w."""
    signed, weight = raw.bitwise_xor(128).view(torch.int8), weight.to(torch.int8)
    offset = weight.sum(1, dtype=torch.int32).mul_(128)
    return torch._int_mm(signed, weight.T).add_(offset).to(torch.float32)


def by_floats(raw: Tensor, weight: Tensor) -> Tensor:
    """Floats, exact for as many as `_EXACT_IN_FLOATS` features: their sums stay below 2²⁴."""
    with torch.autocast("cpu", enabled=False):
        return raw.to(torch.float32) @ weight.to(torch.float32).T


_EXACT_IN_FLOATS = 2**24 // 255
WAYS: tuple[Way, ...] = (by_floats, by_onednn, by_integers)


def byte_product(raw: Tensor, weight: Tensor) -> Tensor:
    """Raw @ weightᵀ on a CPU.

    Args:
        raw: (n, features), uint8.
        weight: (units, features), ±1.

    Returns:
        (n, units), float32.
    """
    if 0 in (*raw.shape, *weight.shape):
        return raw.new_zeros((len(raw), len(weight)), dtype=torch.float32)
    way = quickest()
    return (by_integers if way is by_floats and raw.shape[1] > _EXACT_IN_FLOATS else way)(raw, weight)


@functools.cache
def quickest() -> Way:
    """The way that takes the least time here, found once in a process by a tenth of a second or two of trying."""
    contenders = [way for way in WAYS if _works(way)]
    for size in (64, 512):  # what is slow with little does not get more
        seconds = _seconds(contenders, *_operands(size))
        quick = [way for way in contenders if seconds[way] < 4 * min(seconds.values())]
        contenders = sorted(quick, key=lambda way: seconds[way])
    return contenders[0]


def _operands(size: int, features: int = 784) -> tuple[Tensor, Tensor]:
    """Bytes and weights, each (size, features)."""
    numbers = torch.arange(size * features, device="cpu").view(size, features)
    return numbers.remainder(251).to(torch.uint8), numbers.remainder(7).sub(3.5).sign().to(torch.float32)


def _works(way: Way) -> bool:
    """Whether this build of torch has it for this processor."""
    raw, weight = _operands(16)
    try:
        return torch.equal(way(raw, weight), by_floats(raw, weight))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def _seconds(ways: Sequence[Way], raw: Tensor, weight: Tensor) -> dict[Way, float]:
    """The best of five turns of each, for others use the processor too."""
    best = dict.fromkeys(ways, math.inf)
    for _ in range(5):
        for way in ways:
            start = time.perf_counter()
            way(raw, weight)
            best[way] = min(best[way], time.perf_counter() - start)
    return best
