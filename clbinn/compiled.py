"""Loops over arrays as machine code: one pass over memory where a library makes one for each operation.

The loops use additions, products, quotients and square roots alone, in the order in which they are written, so they
give the same bits on every processor.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(loop: F) -> F:
    """Compile a function of NumPy arrays and numbers on its first call; later processes find it on disk.

    Numbers come in as float64: a loop over float32 must convert them first, or it is done in float64.
    """
    options = {"error_model": "numpy", "nogil": True}
    try:
        fast: F = njit(cache=True, **options)(loop)
    except RuntimeError:  # neither this folder nor the user's cache can be written to
        fast = njit(**options)(loop)
    return fast
