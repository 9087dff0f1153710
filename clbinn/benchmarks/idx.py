"""The IDX format of MNIST: a magic number, the sizes, then unsigned bytes. Plain or gzipped."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError

__all__ = ["find_idx", "read_idx"]

_UNSIGNED_BYTE = 8


def read_idx(path: Path, ndim: int) -> Tensor:
    """Reads an IDX file of unsigned bytes.

    Args:
        path: The file; packed if its name ends in ".gz".
        ndim: Number of dimensions that it must have: 3 for images `(n, height, width)`, 1 for labels `(n,)`.

    Returns:
        A uint8 tensor of `ndim` dimensions.

    Raises:
        DataError: The file can't be read, is truncated, or isn't of this format.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}. Is it truncated? Delete it and get it again.") from error
    magic = int.from_bytes(content[:4], "big")
    if magic != _UNSIGNED_BYTE << 8 | ndim:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes in {ndim} dimension(s): its magic number is 0x{magic:08x}, "
            f"expected 0x{_UNSIGNED_BYTE << 8 | ndim:08x}."
        )
    start = 4 + 4 * ndim
    sizes = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    expected = start + int(np.prod(sizes, dtype=object))
    if len(content) != expected:
        shape = " x ".join(map(str, sizes))
        raise DataError(f"{path} says it holds {shape} bytes, {expected} with its header, but has {len(content)}.")
    if 0 in sizes:
        raise DataError(f"{path} is empty: its sizes are {sizes}.")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).copy()).view(sizes)


def find_idx(folder: Path, stem: str) -> Path:
    """The file `stem` or `stem`.gz in `folder`.

    Raises:
        DataError: Neither is there.
    """
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} has no file {stem} or {stem}.gz.")
