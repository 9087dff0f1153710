"""Sources of images and labels: a name in a recipe, to tensors that have been checked."""

import importlib
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, RecipeError, UserError
from ..schema import SourceSpec
from ..targets import check_options
from . import builtin, files, published

__all__ = ["SOURCES", "Source", "load_source", "stratified"]

Split = tuple[Any, Any]


@dataclass(frozen=True)
class Source:
    """Images `(n, *shape)`, uint8 or float32, and labels `(n,)`, int64, for training and for testing."""

    name: str
    train_images: Tensor
    train_targets: Tensor
    test_images: Tensor
    test_targets: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images and labels for training, then for testing."""
        return self.train_images, self.train_targets, self.test_images, self.test_targets

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image: (channels, height, width), or (features,)."""
        return tuple(self.train_images.shape[1:])

    @property
    def classes(self) -> list[int]:
        """The labels that occur in training, ascending."""
        labels: list[int] = np.unique(self.train_targets.numpy()).tolist()
        return labels


SOURCES: dict[str, Callable[..., tuple[Split, Split]]] = {
    "cifar10": published.cifar10,
    "cifar100": published.cifar100,
    "digits": builtin.digits,
    "fashion_mnist": published.fashion_mnist,
    "idx": files.idx,
    "images": files.images,
    "mnist": published.mnist,
    "mnist5k": builtin.mnist5k,
    "npz": files.npz,
    "synthetic": builtin.synthetic,
}


def load_source(spec: SourceSpec, data_root: str | Path | None = None, download: bool | None = None) -> Source:
    """Loads and checks a source.

    Args:
        spec: What the recipe says. `options.hold_out: n` keeps the last n training images for testing, in place of the
            test set; `train_size` and `test_size` choose so many images, in equal shares of each class.
        data_root: Folder that is searched first for files.
        download: Whether a named data set may be downloaded; None leaves it to the recipe.

    Raises:
        RecipeError: The source has no such option, or sizes ask for more than there is.
        DataError: Data are missing, damaged or don't fit.
    """
    options = dict(spec.options)
    hold_out = options.pop("hold_out", 0)
    if ":" in spec.dataset:
        train, test = _call(spec.dataset, options)
    else:
        places = {
            "path": spec.path,
            "data_root": data_root,
            "download": spec.download if download is None else download,
        }
        train, test = _named(spec.dataset, options, places)
    train_images, train_targets = _checked(spec.dataset, "training", *train)
    test_images, test_targets = _checked(spec.dataset, "test", *test)
    if train_images.shape[1:] != test_images.shape[1:] or train_images.dtype != test_images.dtype:
        raise DataError(
            f"{spec.dataset}: training images are {_form(train_images)}, test images {_form(test_images)}; "
            f"shape and type of an image must be the same."
        )
    if hold_out:
        train_images, train_targets, test_images, test_targets = _hold_out(
            spec.dataset, hold_out, train_images, train_targets
        )
    unseen = np.setdiff1d(test_targets.numpy(), train_targets.numpy())
    if len(unseen):
        raise DataError(f"{spec.dataset}: test labels {unseen[:5].tolist()} don't occur in training.")
    train_images, train_targets = _cut(spec, "train_size", train_images, train_targets)
    test_images, test_targets = _cut(spec, "test_size", test_images, test_targets)
    unseen = np.setdiff1d(test_targets.numpy(), train_targets.numpy())
    if len(unseen):
        raise RecipeError(
            f"{spec.dataset}: train_size {spec.train_size} leaves no training image of the classes "
            f"{unseen[:5].tolist()}, which are tested: take more."
        )
    return Source(spec.dataset, train_images, train_targets, test_images, test_targets)


def stratified(targets: Tensor, size: int, seed: int = 0) -> Tensor:
    """Positions of `size` images, ascending `(size,)`, int64, with every class in its share; fixed by the seed.

    Shares are rounded so that they add up to `size` (largest remainders first).
    """
    random = np.random.RandomState(seed)
    labels, counts = np.unique(targets.numpy(), return_counts=True)
    exact = size * counts / len(targets)
    share = np.floor(exact).astype(int)
    share[np.argsort(share - exact, kind="stable")[: size - share.sum()]] += 1
    chosen = [
        random.permutation(np.flatnonzero(targets.numpy() == label))[:n] for label, n in zip(labels, share, strict=True)
    ]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def _named(name: str, options: dict[str, Any], places: dict[str, Any]) -> tuple[Split, Split]:
    function = SOURCES[name]
    parameters = inspect.signature(function).parameters
    wanted = {key: value for key, value in places.items() if key in parameters}
    known = [key for key in parameters if key not in places]
    for key in options:
        if key not in known:
            raise RecipeError(f"Dataset {name} has no option {key!r}; it has {', '.join([*known, 'hold_out'])}.")
    return function(**wanted, **options)


def _call(target: str, options: dict[str, Any]) -> tuple[Split, Split]:
    module, _, name = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"{target} can't be imported: {error}") from error
    if not callable(function):
        raise RecipeError(f"{target} is no function")
    check_options(function, options, "source.options")
    try:
        result = function(**options)
    except UserError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(f"{target} failed at {where.filename}:{where.lineno}: {error!r}") from error
    try:
        (x_train, y_train), (x_test, y_test) = result
    except (TypeError, ValueError) as error:
        raise DataError(f"{target} must return ((x_train, y_train), (x_test, y_test)).") from error
    return (x_train, y_train), (x_test, y_test)


def _checked(name: str, part: str, images: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Images as uint8 or float32 with channels first, labels as int64; refuses what can't be learned from."""
    x, y = _tensor(name, f"{part} images", images), _tensor(name, f"{part} labels", targets)
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or x.numel() == 0:
        raise DataError(
            f"{name}: {part} images must be (n, ...) and labels (n,) with the same n, none of them empty; "
            f"they are {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if x.dtype.is_floating_point:
        x = x.float()
        bad = (~x.isfinite()).flatten(1).any(1).nonzero()
        if len(bad):
            raise DataError(f"{name}: {len(bad)} {part} images hold NaN or infinity, the first is image {int(bad[0])}.")
    elif x.dtype != torch.uint8:
        if x.dtype == torch.bool or x.is_complex() or x.long().min() < 0 or x.long().max() > 255:
            raise DataError(f"{name}: {part} images of type {x.dtype} must be bytes (0 to 255) or real numbers.")
        x = x.to(torch.uint8)
    if x.dtype == torch.uint8 and x.max() == 1:
        raise DataError(
            f"{name}: {part} images are whole numbers of 0 and 1, and bytes count as parts of 255: "
            "give them as real numbers, or times 255."
        )
    if y.dtype.is_floating_point or y.is_complex() or y.dtype == torch.bool:
        raise DataError(f"{name}: {part} labels must be whole numbers, not {y.dtype}.")
    y = y.long()
    if y.min() < 0 or y.max() >= max(len(y), 1000):
        raise DataError(
            f"{name}: {part} labels must be classes counted from 0; they reach from {int(y.min())} to {int(y.max())}."
        )
    return _channels_first(x).contiguous(), y


def _tensor(name: str, what: str, values: Any) -> Tensor:
    try:
        if isinstance(values, Tensor):
            return values.detach().cpu()
        array = np.asarray(values)
        return torch.as_tensor(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(f"{name}: {what} are not an array of numbers: {error}") from error


def _channels_first(x: Tensor) -> Tensor:
    if x.ndim == 3:
        return x.unsqueeze(1)
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3):
        return x.permute(0, 3, 1, 2)
    return x


def _hold_out(name: str, size: Any, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if type(size) is not int or not 0 < size < len(images):
        raise RecipeError(f"{name}: hold_out must be a number of images from 1 to {len(images) - 1}, not {size!r}.")
    if bool((targets.diff() >= 0).all()) and set(targets.tolist()) != set(targets[-size:].tolist()):
        raise RecipeError(
            f"{name}: hold_out takes the last images, and these lie in the order of their classes: mix them."
        )
    return images[:-size], targets[:-size], images[-size:], targets[-size:]


def _cut(spec: SourceSpec, field: str, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    size = spec.train_size if field == "train_size" else spec.test_size
    if size is None or size == len(images):
        return images, targets
    if size > len(images):
        raise RecipeError(f"{spec.dataset}: {field} is {size}, but there are only {len(images)} images.")
    rows = stratified(targets, size)
    return images[rows], targets[rows]


def _form(x: Tensor) -> str:
    return f"{tuple(x.shape[1:])} of {str(x.dtype).removeprefix('torch.')}"
