"""Other people's datasets whose transforms are the same each time: every image is computed once and kept."""

import functools
import math
from collections.abc import Iterable
from typing import Any

import torch
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.utils.classification_dataset import lookup
from avalanche.benchmarks.utils.transforms import MultiParamCompose, MultiParamTransformCallable, TupleTransform
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import CIFAR10, MNIST

from .dataset import ResidentData, TensorTask, current_group, plain

__all__ = ["cached"]

_LARGEST = 2**30
"""Bytes of images that are kept at most."""

_FIXED = (
    PixelsPermutation,
    transforms.CenterCrop,
    transforms.ConvertImageDtype,
    transforms.Grayscale,
    transforms.Normalize,
    transforms.PILToTensor,
    transforms.Pad,
    transforms.Resize,
    transforms.ToTensor,
)
_COMPOSED = (transforms.Compose, MultiParamCompose, TupleTransform)


def cached(dataset: Any) -> ResidentData | None:
    """Reads a dataset once into memory, if nothing in it is random.

    Args:
        dataset: An Avalanche or torch dataset. Known to be fixed are torchvision's MNIST and CIFAR classes and their
            relatives in Avalanche, tensor datasets and `TensorTask`s, under transforms without chance.

    Returns:
        The same mini-batches as resident data; None if it isn't known to be fixed, or too large (1 GiB).
    """
    data = getattr(dataset, "_flat_data", dataset)
    if len(dataset) == 0 or not plain(dataset) or not _is_fixed(data, current_group(dataset)):
        return None
    x = dataset[0][0]
    if not isinstance(x, Tensor) or x.dtype != torch.float32 or 4 * math.prod(x.shape) * len(dataset) > _LARGEST:
        return None
    with torch.random.fork_rng(devices=[]):  # a fixed angle is drawn as well
        columns = [torch.cat(parts) for parts in zip(*DataLoader(dataset, batch_size=1000), strict=True)]
    if any(column.dtype != torch.int64 for column in columns[1:]) or len(columns) not in (2, 3):
        return None
    return ResidentData((TensorTask(columns[0], columns[1]),), None, *columns[2:])


def _is_fixed(node: Any, group: str | None) -> bool:
    """Whether an item of a dataset, or of a node below it, is the same each time."""
    if isinstance(node, TensorTask):
        return True
    if isinstance(node, MNIST | CIFAR10 | TensorDataset):  # a subclass of the user's own may do anything
        known = type(node).__module__.split(".")[0] in ("torch", "torchvision", "avalanche")
        return known and _all_fixed([getattr(node, "transform", None), getattr(node, "target_transform", None)])
    if isinstance(node, Subset):
        return _is_fixed(node.dataset, group)
    if isinstance(node, ConcatDataset):
        return all(_is_fixed(part, group) for part in node.datasets)
    if hasattr(node, "_flat_data") or not hasattr(node, "_datasets"):
        return False  # an AvalancheDataset brings its own group: known as the outermost alone
    groups = (getattr(node, name, None) for name in ("_transform_groups", "_frozen_transform_groups"))
    return _all_fixed(g[group] for g in groups if g is not None) and all(_is_fixed(d, group) for d in node._datasets)


def _all_fixed(steps: Iterable[Any]) -> bool:
    return all(_step_is_fixed(step) for step in steps)


def _step_is_fixed(step: Any) -> bool:
    if step is None or type(step) in _FIXED:
        return True
    if type(step) is transforms.RandomRotation:
        return bool(step.degrees[0] == step.degrees[1])
    if isinstance(step, functools.partial):
        return step.func is lookup
    if type(step) is MultiParamTransformCallable:
        return _step_is_fixed(step.transform)
    return type(step) in _COMPOSED and _all_fixed(step.transforms)
