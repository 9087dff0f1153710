"""Loops over arrays as machine code: one pass over memory where a library makes one for each operation.

The loops use additions, products, `fma`, quotients and square roots alone, in the order in which they are written, so
they give the same bits on every processor that has the instruction for `fma`, as most have since 2013.
"""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

__all__ = ["compiled", "fma"]

_OWN = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
F = TypeVar("F", bound=Callable[..., Any])


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's files of compiled code; a damaged one, or a full disk, only costs another compilation."""

    def _index_key(self, *args: Any) -> Any:
        return (*super()._index_key(*args), _OWN)  # it looks at the loop's file alone

    def load_overload(self, *args: Any) -> Any:
        try:
            return super().load_overload(*args)
        except Exception:  # whatever a file that is cut off makes of pickle
            return None

    def save_overload(self, *args: Any) -> None:
        with contextlib.suppress(Exception):
            super().save_overload(*args)


def compiled(loop: F) -> F:
    """Compile a function of NumPy arrays and numbers on its first call, and keep it on disk where that can be.

    Floats come in as float64: a loop over float32 must convert them first, or it is done in float64.
    """
    fast: F = njit(error_model="numpy", nogil=True)(loop)
    with contextlib.suppress(RuntimeError):  # neither this folder nor the user's cache can be written to
        fast._cache = _Cache(loop)  # type: ignore[attr-defined]
    return fast


@intrinsic  # type: ignore[untyped-decorator]
def fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """A b + c of three float32, rounded once where the processor does it in one instruction, else twice."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = arguments[0].type
        kind = ir.FunctionType(number, [number] * 3)
        return builder.call(builder.module.declare_intrinsic("llvm.fmuladd", [number], kind), arguments)

    return types.float32(types.float32, types.float32, types.float32), code
