"""Sources from the user's own files: IDX, NPZ, and a folder of images per class."""

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import DataError, RecipeError
from .data import expanded, search_roots
from .idx import find_idx, read_idx

__all__ = ["find_path", "idx", "images", "npz"]

Array = np.ndarray[Any, np.dtype[Any]]

# What NumPy and zipfile raise for archives that are damaged, encrypted, too large or packed in an unknown way.
_BAD_ARCHIVE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def idx(path: str, data_root: str | Path | None = None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A folder with the four files that MNIST has, plain or gzipped; see `clbinn.benchmarks.idx`."""
    folder = find_path(path, data_root)
    stems = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    x_train, y_train, x_test, y_test = (
        read_idx(find_idx(folder, stem), 3 if "images" in stem else 1) for stem in stems
    )
    return (x_train, y_train), (x_test, y_test)


def npz(path: str, data_root: str | Path | None = None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """A NumPy archive with train_images, train_labels, test_images and test_labels; objects are not unpickled."""
    file = find_path(path, data_root)
    names = ("train_images", "train_labels", "test_images", "test_labels")
    try:
        with file.open("rb") as opened:
            archive = np.load(opened, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{file} is a single array; an archive (.npz) with {', '.join(names)} is needed.")
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise DataError(f"{file} has no {', '.join(missing)}; it has {', '.join(archive.files) or 'nothing'}.")
            x_train, y_train, x_test, y_test = (archive[name] for name in names)
    except _BAD_ARCHIVE as error:
        raise DataError(f"{file} can't be read: {error}") from error
    return (x_train, y_train), (x_test, y_test)


def images(
    path: str, data_root: str | Path | None = None, size: int | None = None
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """A folder with train/CLASS/*.png and test/CLASS/*.png (or other image files); classes in order of their names.

    Args:
        path: The folder.
        data_root: Where a relative path may start.
        size: Height and width that all images are resized to; None: they must be of one size.

    Returns:
        Bytes, `(n, height, width)` if all images are grey, else `(n, height, width, 3)`; of 16 bits the upper 8.
    """
    if size is not None and (type(size) is not int or size < 1):
        raise RecipeError(f"images: size must be a whole number of pixels from 1, not {size!r}.")
    folder = find_path(path, data_root)
    names = sorted(entry.name for entry in _entries(folder / "train") if entry.is_dir())
    if not names:
        raise DataError(f"{folder / 'train'} has no folders, one per class.")
    unknown = [e.name for e in _entries(folder / "test") if e.is_dir() and e.name not in names]
    if unknown:
        raise DataError(f"{folder / 'test'} has classes that {folder / 'train'} lacks: {', '.join(unknown)}.")
    found: list[tuple[list[Array], list[int]]] = []
    for part in ("train", "test"):
        pixels: list[Array] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            for file in sorted(_entries(folder / part / name)) if (folder / part / name).is_dir() else []:
                array = _read_image(file, size)
                if pixels and array.shape[:2] != pixels[0].shape[:2]:
                    raise DataError(
                        f"{file} is {array.shape[1]}x{array.shape[0]}, the images before it are "
                        f"{pixels[0].shape[1]}x{pixels[0].shape[0]}: set `options: {{size: ...}}` to resize them."
                    )
                pixels.append(array)
                labels.append(label)
        if not pixels:
            raise DataError(f"{folder / part} holds no images.")
        found.append((pixels, labels))
    colour = any(array.ndim == 3 for pixels, _ in found for array in pixels)
    train, test = ((np.stack([_coloured(a) if colour else a for a in pixels]), np.array(y)) for pixels, y in found)
    return train, test


def find_path(path: str, data_root: str | Path | None) -> Path:
    """The recipe's `path`: absolute, or below the working folder, or below one of the data roots.

    Raises:
        DataError: Nothing is there.
    """
    given = expanded(path)
    places = [given] if given.is_absolute() else [given, *(root / given for root in search_roots(data_root))]
    for place in places:
        if place.exists():
            return place
    raise DataError(f"{path} was not found. Looked for {', '.join(map(str, places))}.")


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: a folder of images has train/CLASS/ and test/CLASS/.")
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _read_image(file: Path, size: int | None) -> Array:
    """The image as bytes, grey `(h, w)` or colour `(h, w, 3)`."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            if opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM")):
                image = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))  # `convert` would clip at 255
            elif opened.mode in ("I", "F"):
                raise ValueError("its pixels are 32-bit numbers of unknown range; save it with 8 or 16 bits")
            else:
                image = opened.convert("L" if opened.mode in ("1", "L", "LA") else "RGB")
            return np.asarray(image if size is None else image.resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} is not an image that can be read: {error}") from error


def _coloured(image: Array) -> Array:
    return image if image.ndim == 3 else np.stack([image] * 3, axis=2)
