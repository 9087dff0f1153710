"""The two synthetic problems of appendix B.1: two moons, and Snelson & Ghahramani's regression data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import torch
from torch import Tensor

from clbinn.benchmarks.data import search_roots
from clbinn.errors import DataError, RecipeError

__all__ = ["Points", "snelson", "snelson_substitute", "two_moons"]


@dataclass(frozen=True)
class Points:
    """A small problem, inputs standardised by the training points.

    Attributes:
        name: Which data these are; a substitute says so.
        train_x: (n, features), float32.
        train_y: (n,), float32: classes 0 and 1, or standardised outputs.
        test_x: (m, features), float32.
        test_y: (m,), float32.
        regression: Whether outputs are real numbers.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    regression: bool


def two_moons(data_root: Path | None = None, noise: float = 0.1, test_points: int = 50) -> Points:
    """100 points in each of two half circles, and held-out points of the same kind.

    Args:
        data_root: Not needed; the points are made.
        noise: Standard deviation of the Gaussian noise.
        test_points: Number of held-out points.

    Raises:
        RecipeError: Less than no noise, or less than one point.
    """
    if not 0 <= noise < float("inf") or test_points < 1:
        raise RecipeError(f"two_moons: noise must be at least 0, test_points at least 1; got {noise}, {test_points}")
    from sklearn.datasets import make_moons

    train_x, train_y = make_moons(200, noise=noise, random_state=0)
    test_x, test_y = make_moons(test_points, noise=noise, random_state=1)
    mean, std = train_x.mean(0), train_x.std(0)
    x, y = (torch.from_numpy(array).float() for array in ((train_x - mean) / std, train_y))
    held_x, held_y = (torch.from_numpy(array).float() for array in ((test_x - mean) / std, test_y))
    return Points("two moons", x, y, held_x, held_y, regression=False)


def snelson(data_root: Path | None = None, path: str | None = None, held_out: int = 20) -> Points:
    """Snelson & Ghahramani's 200 points (2005); without the files a made substitute, which its name says.

    Args:
        data_root: Searched first for a folder `snelson`.
        path: A folder, or a URL (http, https, file), that holds `train_inputs` and `train_outputs`, a number a line.
        held_out: Of the points drawn as test points for the test error; the curve is learned from all of them.

    Raises:
        DataError: Files of `path` that are missing or hold anything but as many inputs as outputs.
        RecipeError: `held_out` leaves no test point, or fewer than two to learn from.
    """
    if path is None:
        folders = [root / "snelson" for root in search_roots(data_root)]
        found = next((folder for folder in folders if (folder / "train_inputs").is_file()), None)
        if found is None:
            return _standardised("substitute for Snelson's data", *snelson_substitute(), held_out)
        path = str(found)
    x, y = (_numbers(path, name) for name in ("train_inputs", "train_outputs"))
    if len(x) != len(y):
        raise DataError(f"{path}: {len(x)} inputs and {len(y)} outputs; there must be as many")
    return _standardised("Snelson's data", x, y, held_out)


def snelson_substitute(points: int = 200) -> tuple[Sequence[float], Sequence[float]]:
    """Points of a smooth made-up curve with a hole in the middle, for when Snelson's files are not at hand."""
    random = np.random.default_rng(0)
    x = np.sort(np.concatenate([random.uniform(0, 2.2, points // 2), random.uniform(3.4, 6, points - points // 2)]))
    y = np.sin(2 * x) * np.exp(-0.15 * x) + 0.3 * x - 1 + 0.25 * random.standard_normal(points)
    return x.tolist(), y.tolist()


def _standardised(name: str, x: Sequence[float], y: Sequence[float], held_out: int) -> Points:
    if not 1 <= held_out <= len(x) - 2:
        raise RecipeError(f"{name}: held_out must be from 1 to {len(x) - 2} of its {len(x)} points, not {held_out}")
    inputs, outputs = torch.tensor(x), torch.tensor(y)
    inputs = ((inputs - inputs.mean()) / inputs.std()).unsqueeze(1)
    outputs = (outputs - outputs.mean()) / outputs.std()
    test = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(0))[:held_out]
    return Points(name, inputs, outputs, inputs[test], outputs[test], regression=True)


def _numbers(place: str, name: str) -> list[float]:
    where = f"{place.rstrip('/')}/{name}"
    try:
        if place.startswith(("http://", "https://", "file://")):
            with urlopen(where, timeout=30) as answer:  # noqa: S310
                text = answer.read(1_000_000).decode()
        else:
            text = Path(where).expanduser().read_text()
        values = [float(word) for word in text.split()]
    except (OSError, URLError, ValueError) as error:
        raise DataError(f"{where}: not a file of numbers, one a line: {error}") from None
    if not np.isfinite(values).all():
        raise DataError(f"{where}: holds a number that is not finite")
    return values
