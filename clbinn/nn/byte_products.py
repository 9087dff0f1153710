"""Exact products of bytes with weights of ±1, by whichever way is the quickest on this processor for these bytes.

A processor with instructions for eight-bit dot products multiplies bytes three times as fast as floats; others are
twice as fast by one of torch's ways and thirty times as slow by another, and quicker still where most of the bytes are
zeros and are skipped. For as many as `FEATURES` all of them give the same numbers, sums of integers that float32 holds
exactly. The bytes are made ready once for many sets of weights.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clbinn.nn.sparse_bytes import by_skipping_zeros

__all__ = ["WAYS", "byte_products", "quickest"]

Product = Callable[[Tensor], Tensor]
Way = Callable[[Tensor], Product]


def by_onednn(raw: Tensor) -> Product:
    """Unsigned by signed bytes, summed in 32 bits: with bits b, w = 2 b - 1, Σ w raw = 2 Σ b (raw - 128) + 128 Σ w + c.

    c = 128 features - Σ raw.
    """
    signed = raw.bitwise_xor(128).view(torch.int8).contiguous()  # oneDNN ignores strides
    packed = torch.ops.onednn.qlinear_prepack(signed, None)
    rest = raw.sum(1, dtype=torch.int32).neg_().add_(128 * raw.shape[1]).to(torch.float32)
    one, zero = rest.new_ones(1), raw.new_zeros(1, dtype=torch.int64)

    def product(weight: Tensor) -> Tensor:
        bits = (weight > 0).view(torch.uint8).contiguous()
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            bits, 2.0, 0, packed, one, zero, rest, 1.0, 0, torch.float32, "none", [], ""
        )
        return out.add_(weight.sum(1, keepdim=True, dtype=torch.float32), alpha=128)

    return product


def by_integers(raw: Tensor) -> Product:
    """Signed by signed bytes: Σ w (raw - 128) + 128 Σ w."""
    signed = raw.bitwise_xor(128).view(torch.int8).T

    def product(weight: Tensor) -> Tensor:
        narrow = weight.to(torch.int8)
        offset = narrow.sum(1, keepdim=True, dtype=torch.int32).mul_(128)
        return torch._int_mm(narrow, signed).add_(offset).to(torch.float32)

    return product


def by_floats(raw: Tensor) -> Product:
    """Floats, whose sums are exact below 2²⁴."""
    wide = raw.to(torch.float32).T

    def product(weight: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return weight.to(torch.float32) @ wide

    return product


FEATURES = 2**16  # 255 times as much is below 2²⁴
WAYS: tuple[Way, ...] = (by_floats, by_onednn, by_integers, by_skipping_zeros)


def byte_products(raw: Tensor) -> Product:
    """Weight → weight @ rawᵀ on a CPU.

    Args:
        raw: (n, features), uint8.

    Returns:
        A function of weights of ±1, (units, features), whose result is (units, n), float32, rounded once.
    """
    way = quickest(_tenths(raw)) if raw.numel() else by_floats
    if raw.shape[1] <= FEATURES:
        return way(raw)
    products = [way(part) for part in torch.split(raw, FEATURES, 1)]

    def product(weight: Tensor) -> Tensor:
        parts = zip(products, torch.split(weight, FEATURES, 1), strict=True)
        return sum((of(part).double() for of, part in parts), torch.zeros((), dtype=torch.float64)).float()

    return product


def _tenths(raw: Tensor) -> int:
    """How many tenths of the bytes are not zero, rounded up."""
    return math.ceil(10 * int(raw.count_nonzero()) / raw.numel())


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
        return torch.equal(way(raw)(weight), by_floats(raw)(weight))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def _seconds(ways: Sequence[Way], raw: Tensor, weight: Tensor) -> dict[Way, float]:
    """The best of five turns of each, for others use the processor too."""
    best = dict.fromkeys(ways, math.inf)
    products = {way: way(raw) for way in ways}
    for _ in range(5):
        for way, product in products.items():
            start = time.perf_counter()
            product(weight)
            best[way] = min(best[way], time.perf_counter() - start)
    return best
