"""Where ticks and labels of the figures go: arithmetic, no drawing."""

import textwrap
from collections.abc import Sequence

import numpy as np

__all__ = ["byte_ticks", "bytes_text", "folded", "legend_columns", "round_tasks", "spread_out"]


def round_tasks(tasks: int, at_most: int) -> list[int]:
    """Tasks to label on an axis, 1-based: all if they are few, else the first and round numbers."""
    if tasks <= at_most:
        return list(range(1, tasks + 1))
    step = next(m * 10**e for e in range(12) for m in (1, 2, 5) if tasks <= 6 * m * 10**e)
    return [1, *range(step, tasks + 1, step)]


def folded(title: str, inches: float) -> str:
    """A title in lines that fit the width: 0.08 inches a letter."""
    return textwrap.fill(title, max(12, int(inches / 0.08)))


def legend_columns(names: Sequence[str], inches: float) -> int:
    """Columns of a legend as many as fit the width, at most 7: 0.066 inches a letter and 0.55 for a line's sample."""
    for columns in range(min(7, len(names)), 1, -1):
        parts = np.array_split(np.array([len(name) for name in names]), columns)  # as matplotlib fills them
        if sum(0.066 * int(part.max()) + 0.55 for part in parts) <= inches:
            return columns
    return 1


def spread_out(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels at rising `values`: at least `gap` apart, near their values, inside [low, high] if they fit."""
    places = list(values)
    for _ in range(200):
        for i in range(1, len(places)):
            overlap = gap - (places[i] - places[i - 1])
            if overlap > 0:
                places[i - 1] -= overlap / 2
                places[i] += overlap / 2
        if places and gap * (len(places) - 1) <= high - low:
            shift = max(low - places[0], 0.0)
            places[0] += shift
            places[-1] -= max(places[-1] - high, 0.0)
    for i in range(1, len(places)):  # what the even push has left, upwards
        places[i] = max(places[i], places[i - 1] + gap)
    return places


def byte_ticks(low: float, high: float) -> list[float]:
    """Round numbers of bytes inside [low, high] for a logarithmic axis; at least two if high is twice low."""
    fine = (1, 2, 5) if high / low > 12 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    return [m * 10.0**e for e in range(-1, 15) for m in fine if low <= m * 10.0**e <= high]


def bytes_text(x: float) -> str:
    """`1.5 MB`, in decimal units."""
    for unit in ("B", "kB", "MB"):
        if x < 1000:
            return f"{x:g} {unit}"
        x /= 1000
    return f"{x:g} GB"
