"""Products of bytes that are mostly zeros with weights of ±1: only what is not zero is added.

Four fifths of the pixels of a handwritten digit are zeros, whatever their order. With bits b, w = 2 b - 1:

    Σ_k w_k x_k = 2 Σ_{k: x_k ≠ 0} b_k x_k - Σ_k x_k

The sum over the bits is made in 16-bit integers, many units at a time, and is exact.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clbinn.compiled import compiled

__all__ = ["inputs", "multiply", "weights"]

Array = NDArray[Any]
TERMS = 8  # of a sum that are added at a time
TERMS_OF_16_BITS = 256  # bytes whose sum fits
UNITS = 512  # at a time: the bits of so many stay in a core's second-level cache
VECTOR = 32  # units are filled up to a multiple: the compiler's rest, one by one, is slow


def inputs(raw: Tensor) -> tuple[Array, ...]:
    """(n, features ≤ 2¹⁶), uint8 → columns and values of what is not zero, where each image ends in them, its sum."""
    images = len(raw)
    columns = np.empty(raw.numel() + TERMS * images, np.uint16)
    values, ends = np.empty_like(columns), np.zeros(images + 1, np.int64)
    find(raw.contiguous().numpy(), columns, values, ends)
    return columns[: ends[-1]].copy(), values[: ends[-1]].copy(), ends, raw.sum(1, dtype=torch.int32).numpy()


def weights(weight: Tensor) -> tuple[int, list[Array]]:
    """±1, (units, features) → number of units, and for so many at a time masks (features, units), 255 for +1."""
    bits, parts = (weight > 0).view(torch.uint8).numpy(), []
    for start in range(0, len(weight), UNITS):
        part = bits[start : start + UNITS].T
        masks = np.zeros((part.shape[0], -(-part.shape[1] // VECTOR) * VECTOR), np.uint8)
        masks[:, : part.shape[1]] = part
        parts.append(np.negative(masks, out=masks))
    return len(weight), parts


def multiply(given: tuple[Array, ...], weight: tuple[int, list[Array]]) -> Tensor:
    """raw @ weightᵀ, (n, units), float32."""
    columns, values, ends, totals = given
    units, parts = weight
    out = torch.empty(len(totals), units, dtype=torch.float32, device="cpu")
    for start, masks in zip(range(0, units, UNITS), parts, strict=True):
        add_up(columns, values, ends, totals, masks, out[:, start : start + UNITS].numpy())
    return out


@compiled
def find(raw: Array, columns: Array, values: Array, ends: Array) -> None:
    """Columns and values of what is not zero, image after image, each filled up with zeros to a multiple of TERMS."""
    n = 0
    for i in range(raw.shape[0]):
        row = raw[i]
        for k in range(row.size):
            columns[n], values[n] = k, row[k]  # the next one overwrites a zero: a branch would be guessed wrongly
            n += row[k] != 0
        while n % TERMS:
            columns[n], values[n] = 0, 0
            n += 1
        ends[i + 1] = n


@compiled
def add_terms(masks: Array, columns: Array, values: Array, sums: Array) -> None:
    """sums += Σ_k value_k where the mask of its column is set; modulo 2¹⁶."""
    for k in range(0, columns.size, TERMS):
        a, b, c, d = masks[columns[k]], masks[columns[k + 1]], masks[columns[k + 2]], masks[columns[k + 3]]
        e, f, g, h = masks[columns[k + 4]], masks[columns[k + 5]], masks[columns[k + 6]], masks[columns[k + 7]]
        p, q, r, s = values[k], values[k + 1], values[k + 2], values[k + 3]
        t, u, v, w = values[k + 4], values[k + 5], values[k + 6], values[k + 7]
        for j in range(sums.size):
            first = ((a[j] & p) + (b[j] & q)) + ((c[j] & r) + (d[j] & s))
            second = ((e[j] & t) + (f[j] & u)) + ((g[j] & v) + (h[j] & w))
            sums[j] += first + second


@compiled
def add_up(columns: Array, values: Array, ends: Array, totals: Array, masks: Array, out: Array) -> None:
    """The product.

    Args:
        columns: Of what is not zero, uint16.
        values: In these columns, uint16.
        ends: Where each image ends, and 0 before them.
        totals: Σ_k x_k of each image, int32.
        masks: (features, units), uint8: 255 where a weight is +1, else 0. Their units may be more than those of `out`.
        out: (images, units), float32, filled.
    """
    images, units = out.shape
    sums, line = np.empty(masks.shape[1], np.uint16), np.empty(masks.shape[1], np.int32)
    for i in range(images):
        line[:] = -totals[i]
        for start in range(ends[i], ends[i + 1], TERMS_OF_16_BITS):
            stop = min(start + TERMS_OF_16_BITS, ends[i + 1])
            sums[:] = 0
            add_terms(masks, columns[start:stop], values[start:stop], sums)
            for j in range(line.size):
                line[j] += np.int32(sums[j]) * np.int32(2)
        row = out[i]
        for j in range(units):
            row[j] = line[j]
