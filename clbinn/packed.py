"""Networks on disk with one bit for each weight of ±1.

    packed.save(net.state_dict(), "net.npz")
    net.load_state_dict(packed.load("net.npz"))

Nothing is lost: tensors that hold ±1 and nothing else are packed, eight weights a byte, and all others are kept as they
are. The file is numpy's .npz without pickles: `numpy.load` reads it, and `numpy.unpackbits` gives the bits, 1 for +1,
in the order of the weights.
"""

import io
import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["binary", "load", "pack", "save", "unpack"]

_INDEX = "index.json"  # the name of the entry that says what the others are
# what json, zipfile and NumPy raise for a file that is damaged or another's
_BAD_FILE = (
    AttributeError,
    EOFError,
    KeyError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def binary(tensor: Tensor) -> bool:
    """Whether a tensor holds ±1 and nothing else."""
    return tensor.is_floating_point() and tensor.numel() > 0 and bool((tensor.abs() == 1).all())


def pack(weights: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Weights of ±1, of any shape, as bytes `(⌈numel / 8⌉,)`; the bits that are left over are 0.

    Raises:
        ValueError: A weight is neither -1 nor +1.
    """
    if not binary(weights):
        raise ValueError("only weights of -1 and +1 can be packed")
    return np.packbits((weights.detach().reshape(-1) > 0).cpu().numpy())


def unpack(packed: np.ndarray[Any, np.dtype[np.uint8]], shape: tuple[int, ...]) -> Tensor:
    """The weights of ±1 that `pack` made bytes of, float32.

    Raises:
        ValueError: The shape has another number of weights.
    """
    count = math.prod(shape)
    if packed.dtype != np.uint8 or packed.shape != (-(-count // 8),):
        raise ValueError(f"{packed.size} bytes don't hold {count} weights of shape {shape}")
    bits = torch.from_numpy(np.unpackbits(packed, count=count))
    return bits.float().mul_(2).sub_(1).view(shape)


def save(state: Mapping[str, Tensor], path: str | Path) -> int:
    """Write a network's `state_dict()`, packed.

    Args:
        state: Tensors by name.
        path: The file, best with the ending .npz.

    Returns:
        The number of weights that take one bit.
    """
    index: dict[str, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in state.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        index[name] = {"type": kind, "shape": list(tensor.shape), "packed": binary(tensor)}
        if index[name]["packed"]:
            arrays[name] = pack(tensor)
        else:
            plain = tensor.detach().cpu()
            arrays[name] = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()  # exact
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(_INDEX, json.dumps(index))
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    Path(path).write_bytes(content.getvalue())
    return sum(state[name].numel() for name, about in index.items() if about["packed"])


def load(path: str | Path) -> dict[str, Tensor]:
    """The `state_dict()` that `save` wrote, with the same numbers, shapes and types, on the CPU.

    Raises:
        ValueError: The file was not written by `save`, or is damaged.
        FileNotFoundError: There is none.
    """
    state: dict[str, Tensor] = {}
    content = io.BytesIO(Path(path).read_bytes())
    try:
        with zipfile.ZipFile(content) as file:
            for name, about in json.loads(file.read(_INDEX)).items():
                with file.open(f"{name}.npy") as entry:
                    array = np.lib.format.read_array(entry, allow_pickle=False)
                tensor = unpack(array, tuple(about["shape"])) if about["packed"] else torch.from_numpy(array)
                state[name] = tensor.to(_TYPES.get(about["type"], tensor.dtype)).view(about["shape"])
    except _BAD_FILE as error:
        raise ValueError(f"{path}: not a packed network, or damaged: {error}") from error
    return state
