"""Checkpoints that hold plain values only, are replaced atomically, and notice damage.

A file is what `torch.save` writes, a zip archive, with the SHA-256 of all that precedes as the archive's comment. So
`torch.load(path, weights_only=True)` reads it as it is, and a flipped bit or a missing tail is found before anything is
read.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from clbinn.errors import RunError
from clbinn.experiments.files import replace_file
from clbinn.experiments.store import CURRENT, PREVIOUS

__all__ = ["CURRENT", "PREVIOUS", "DamagedError", "fitting", "load", "load_latest", "require_plain", "save"]


_MARK = b"sha256="
_COMMENT = len(_MARK) + 64
_PLAIN = (type(None), bool, int, float, str)


class DamagedError(Exception):
    """A checkpoint that is cut off, altered, or none at all."""


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the folder's checkpoint; the one before it is kept as `checkpoint.prev.pt`.

    Args:
        folder: A run folder.
        state: Nested dicts, lists and tuples of tensors, numbers, strings and None.

    Raises:
        TypeError: Something else is in it; tells where.
        OSError: It can't be written. The checkpoints that were there stay.
    """
    require_plain(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = bytearray(buffer.getbuffer())
    content[-2:] = _COMMENT.to_bytes(2, "little")  # the last field of a zip archive is the length of its comment
    content += _MARK + hashlib.sha256(content).hexdigest().encode()
    current = folder / CURRENT
    replace_file(current, bytes(content), keep=folder / PREVIOUS)


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint onto the CPU.

    Raises:
        DamagedError: The checksum doesn't fit, or the file holds more than plain values.
        FileNotFoundError: There is none.
    """
    content = path.read_bytes()
    body, mark, digest = content[:-_COMMENT], content[-_COMMENT:-64], content[-64:]
    if mark != _MARK or hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamagedError(f"{path} is damaged: its checksum doesn't fit")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedError(f"{path} can't be read as plain values: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise DamagedError(f"{path} holds no checkpoint")
    return state


def load_latest(folder: Path, *, set_aside: bool = False) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest checkpoint that is whole, and a line for each that is not. None if there is no whole one.

    Args:
        folder: A run folder.
        set_aside: Rename a damaged newest one to `checkpoint.damaged.pt`, so that the next `save` doesn't put it in the
            place of the whole one before it.
    """
    faults: list[str] = []
    for name in (CURRENT, PREVIOUS):
        try:
            return load(folder / name), faults
        except FileNotFoundError:
            continue
        except DamagedError as error:
            faults.append(str(error))
            if set_aside and name == CURRENT:
                (folder / CURRENT).replace(folder / "checkpoint.damaged.pt")
    return None, faults


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Around the taking over of a checkpoint's state: RunError where it is not of these parts."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"{folder}: the checkpoint doesn't fit the recipe's parts ({error}). It may come from another version: "
            "move the folder away to begin again."
        ) from error


def require_plain(value: Any, place: str = "state") -> None:
    """Raise TypeError, with the place, unless the value is made of plain values and tensors."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str | int):
                raise TypeError(f"{place} has a key of type {type(key).__name__}; keys are strings or integers")
            require_plain(item, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            require_plain(item, f"{place}[{index}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in _PLAIN:
        raise TypeError(f"{place} is a {type(value).__name__}; a checkpoint holds plain values and tensors only")
