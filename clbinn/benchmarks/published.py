"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100: looked for, checked, and downloaded by torchvision if allowed."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .data import DATA_SETS, how_to_get, locate, present, search_roots
from .idx import read_idx

__all__ = ["cifar10", "cifar100", "fashion_mnist", "mnist"]

Splits = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def mnist(data_root: str | Path | None = None, download: bool = False) -> Splits:
    """MNIST: 60,000 and 10,000 grey images of digits, 28×28, 10 classes."""
    return _idx("mnist", data_root, download)


def fashion_mnist(data_root: str | Path | None = None, download: bool = False) -> Splits:
    """Fashion-MNIST: 60,000 and 10,000 grey images of clothes, 28×28, 10 classes."""
    return _idx("fashion_mnist", data_root, download)


def cifar10(data_root: str | Path | None = None, download: bool = False) -> Splits:
    """CIFAR-10: 50,000 and 10,000 colour images, 32×32, 10 classes."""
    files = _files("cifar10", data_root, download)
    return _cifar(files, [f"data_batch_{i}" for i in range(1, 6)], "labels"), _cifar(files, ["test_batch"], "labels")


def cifar100(data_root: str | Path | None = None, download: bool = False) -> Splits:
    """CIFAR-100: 50,000 and 10,000 colour images, 32×32, 100 (fine) classes."""
    files = _files("cifar100", data_root, download)
    return _cifar(files, ["train"], "fine_labels"), _cifar(files, ["test"], "fine_labels")


def _files(name: str, data_root: str | Path | None, download: bool) -> list[Path]:
    """The data set's checked files, downloaded to the first root if they are nowhere and may be."""
    if download and not any(present(name, root) for root in search_roots(data_root)):
        _download(name, search_roots(data_root)[0])
    return locate(name, data_root)[1]


def _download(name: str, root: Path) -> None:
    from torchvision import datasets

    kinds = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
    try:
        root.mkdir(parents=True, exist_ok=True)
        getattr(datasets, kinds[name])(root, download=True)
    except (RuntimeError, URLError, OSError, EOFError) as error:
        raise DataError(f"{name} could not be downloaded to {root}: {error}\n{how_to_get(name, [root])}") from error


def _idx(name: str, data_root: str | Path | None, download: bool) -> Splits:
    x_train, y_train, x_test, y_test = (
        read_idx(file, 3 if "images" in file.name else 1) for file in _files(name, data_root, download)
    )
    for x, y, size in ((x_train, y_train, 60_000), (x_test, y_test, 10_000)):
        if x.shape != (size, 28, 28) or y.shape != (size,) or int(y.max()) > 9:
            raise DataError(
                f"{name}: expected {size:,} images of 28x28 with labels 0 to 9, found {tuple(x.shape)}, "
                f"{len(y):,} labels up to {int(y.max())}. These are not the published files."
            )
    return (x_train, y_train), (x_test, y_test)


def _cifar(files: list[Path], names: list[str], key: str) -> tuple[Tensor, Tensor]:
    pixels, labels = [], []
    for name in names:
        content = _Arrays(io.BytesIO(_content(files, name)), encoding="latin1").load()
        pixels.append(np.asarray(content["data"], np.uint8).reshape(-1, 3, 32, 32))
        labels.extend(content[key])
    return torch.from_numpy(np.concatenate(pixels)), torch.tensor(labels)


def _content(files: list[Path], name: str) -> bytes:
    if not files[0].name.endswith(".tar.gz"):
        return next(file for file in files if file.name == name).read_bytes()
    folder = next(known.folder for known in DATA_SETS.values() if files[0].name in known.archives)
    with tarfile.open(files[0]) as archive:
        member = archive.extractfile(f"{folder}/{name}")
        if member is None:
            raise DataError(f"{files[0]} has no file {folder}/{name}.")
        return member.read()


class _Arrays(pickle.Unpickler):
    """Unpickles the CIFAR batches, and nothing that isn't a NumPy array."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("ndarray", "dtype", "_reconstruct"):
            return super().find_class(module, name)
        raise DataError(f"A CIFAR batch holds {module}.{name}, which is not an array; it was not loaded.")
