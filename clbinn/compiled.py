"""Loops over arrays as machine code: one pass over memory where a library makes one for each operation.

The loops use additions, products, `fma`, quotients and square roots alone, in the order in which they are written, so
they give the same bits on every processor that has the instruction for `fma`, as most have since 2013.
"""

import contextlib
import hashlib
import os
import pickle
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
from llvmlite import ir
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps
from numba.extending import intrinsic

__all__ = ["compiled", "fma"]

F = TypeVar("F", bound=Callable[..., Any])


class _Files:
    """A file of code for each version of a loop, of Numba and of Python, each kind of arguments and each processor.

    Numba's own files have an index, written before the code: a second process could find another version's there.
    """

    def __init__(self, folder: str, loop: Callable[..., Any]) -> None:
        sources = [Path(path).read_bytes() for path in (loop.__code__.co_filename, __file__)]
        self._folder, self._name = Path(folder), f"{loop.__module__}.{loop.__name__}"
        versions = numba.__version__, llvmlite.__version__, sys.version, getattr(sys, "abiflags", "")
        self._version = repr((versions, [hashlib.sha256(source).hexdigest() for source in sources]))

    def _path(self, key: Any) -> Path:
        identity = hashlib.sha256((self._version + repr(key)).encode()).hexdigest()
        return self._folder / f"{self._name}-{identity[:32]}.nbc"

    def load(self, key: Any) -> Any:
        return pickle.loads(self._path(key).read_bytes())  # noqa: S301  # beside the source, or in the user's cache

    def save(self, key: Any, data: Any) -> None:
        path = self._path(key)
        unfinished = path.with_suffix(f".{uuid.uuid4().hex[:16]}")
        try:
            unfinished.write_bytes(dumps(data))
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def flush(self) -> None:
        for path in self._folder.glob(f"{self._name}-*.nbc"):
            path.unlink(missing_ok=True)


class _Cache(FunctionCache):  # type: ignore[misc]
    """Compiled code on disk; a file that is missing or damaged, or a full disk, only costs another compilation."""

    def __init__(self, loop: Callable[..., Any]) -> None:
        super().__init__(loop)
        self._cache_file = _Files(self.cache_path, loop)

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
    with contextlib.suppress(RuntimeError, OSError):  # neither this folder nor the user's cache can be written to
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
