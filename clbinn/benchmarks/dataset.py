"""A task's data as tensors that stay where they are: a batch is one gather.

All tasks of a stream share one tensor of raw images. What makes a task (a choice of images, a rotation, a permutation
of the pixels) is kept as an index and applied to whole batches, or once to the whole task while it is trained on.
"""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, default_collate

__all__ = ["DeviceCopies", "ResidentData", "TensorTask", "resident"]

Device = torch.device | str


class DeviceCopies:
    """A tensor with its copies on other devices, each made when it is first asked for."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._copies = {tensor.device: tensor}

    def on(self, device: Device) -> Tensor:
        """The tensor on `device`; the same object each time."""
        device = resolved(device)
        if device not in self._copies:
            self._copies[device] = self.tensor.to(device)
        return self._copies[device]


def resolved(device: Device) -> torch.device:
    """The device as tensors name it: "cuda" is the current card."""
    device = torch.device(device)
    return device if device.type == "cpu" or device.index is not None else torch.empty(0, device=device).device


class TensorTask(Dataset[tuple[Tensor, int]]):
    """The images and labels of one task.

    Image i is raw image `rows[i]`, turned by `degrees`, scaled to [0, 1] if it is of bytes, normalised as
    (x - mean) / std, and with its flattened pixels in the order `permutation`: pixel j of the result is pixel
    `permutation[j]` of the image.

    Args:
        images: Raw images `(m, *shape)`, uint8 or float32; a `DeviceCopies` is shared between tasks.
        targets: Labels of the task's images, `(n,)`, int64; a `DeviceCopies` is shared likewise.
        rows: Which raw images belong to the task, `(n,)`, int64; None is all of them.
        degrees: Angle of rotation, counter-clockwise, bilinear, black outside.
        permutation: An order of the `math.prod(shape)` pixels, int64.
        mean: One number, or one per channel (first axis of `shape`).
        std: Like `mean`, above 0.

    Raises:
        ValueError: Sizes or types don't fit each other.
    """

    def __init__(
        self,
        images: Tensor | DeviceCopies,
        targets: Tensor | DeviceCopies,
        *,
        rows: Tensor | None = None,
        degrees: float = 0.0,
        permutation: Tensor | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        self._images = images if isinstance(images, DeviceCopies) else DeviceCopies(images)
        self._targets = targets if isinstance(targets, DeviceCopies) else DeviceCopies(targets)
        self._rows = None if rows is None else DeviceCopies(rows)
        self._permutation = None if permutation is None else DeviceCopies(permutation)
        self.degrees = degrees
        self.mean, self.std = mean, std
        self.shape = tuple(self._images.tensor.shape[1:])
        _check(self)
        self._scale, self._shift = self._make_affine()
        self._kept: weakref.ref[Tensor] | None = None

    def __len__(self) -> int:
        return len(self._targets.tensor)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"image {i} of a task of {len(self)} images")
        x, y = self.batch(torch.tensor([int(i) % len(self)]))
        return x[0], int(y)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}

    @property
    def targets(self) -> Tensor:
        """Labels, `(n,)`, int64, on the CPU."""
        return self._targets.on("cpu")

    @property
    def permutation(self) -> Tensor | None:
        """The order of the pixels, `(pixels,)`, int64, or None."""
        return None if self._permutation is None else self._permutation.tensor

    @property
    def transformed(self) -> bool:
        """Whether an image takes more work than a gather and the normalisation."""
        return self._permutation is not None or self.degrees % 360 != 0

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(b, *shape)`, float32, and labels `(b,)` at `index` `(b,)`, on the device of `index`."""
        device = index.device
        kept = self._kept() if self._kept is not None else None
        if kept is not None and kept.device == device:
            raw = kept.index_select(0, index)
        else:
            rows = index if self._rows is None else self._rows.on(device).index_select(0, index)
            raw = self._transform(self._images.on(device).index_select(0, rows))
        return self.normalise(raw), self._targets.on(device).index_select(0, index)

    def materialise(self, device: Device = "cpu") -> Tensor:
        """Raw images of the task `(n, *shape)`, chosen, turned and permuted, not yet normalised.

        They are computed once and kept for as long as the caller, or anyone else, holds the result; meanwhile `batch`
        gathers from them.
        """
        kept = self._kept() if self._kept is not None else None
        if kept is not None and kept.device == resolved(device):
            return kept
        raw = self._images.on(device)
        if self._rows is not None:
            raw = raw.index_select(0, self._rows.on(device))
        kept = self._transform(raw)
        self._kept = weakref.ref(kept)
        return kept

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw images `(b, *shape)` as float32, in [0, 1] if they were bytes, less the mean, over the std."""
        scale, shift = self.affine(raw.device)
        if raw.dtype == torch.float32:
            unchanged = isinstance(scale, float) and scale == 1 and shift == 0
            return raw if unchanged else (raw * scale).add_(shift)
        return raw.float().mul_(scale).add_(shift)

    def affine(self, device: Device = "cpu") -> tuple[float | Tensor, float | Tensor]:
        """Scale and shift with which `normalise` is raw · scale + shift: numbers, or tensors of shape `shape`."""
        scale, shift = (v.on(device) if isinstance(v, DeviceCopies) else v for v in (self._scale, self._shift))
        return scale, shift

    def _make_affine(self) -> tuple[float | DeviceCopies, float | DeviceCopies]:
        top = 255.0 if self._images.tensor.dtype == torch.uint8 else 1.0
        if not isinstance(self.mean, Sequence) and not isinstance(self.std, Sequence):
            return 1 / (top * self.std), -self.mean / self.std
        channels = (self.shape[0],) + (1,) * (len(self.shape) - 1)
        mean, std = (torch.as_tensor(v, dtype=torch.float64).expand(self.shape[0]) for v in (self.mean, self.std))
        # A permuted pixel keeps the normalisation of the channel that it came from.
        both = [v.reshape(channels).expand(self.shape).float() for v in (1 / (top * std), -mean / std)]
        if self._permutation is not None:
            both = [v.reshape(-1)[self._permutation.on("cpu")].reshape(self.shape) for v in both]
        return DeviceCopies(both[0].contiguous()), DeviceCopies(both[1].contiguous())

    def _transform(self, raw: Tensor) -> Tensor:
        if self.degrees % 360 != 0:
            raw = rotate(raw, self.degrees)
        if self._permutation is not None:
            raw = permute_pixels(raw, self._permutation.on(raw.device))
        return raw


def permute_pixels(raw: Tensor, permutation: Tensor) -> Tensor:
    """Images `(b, *shape)` with their flattened pixels in the order `permutation`."""
    flat = raw.reshape(len(raw), -1)
    if flat.device.type == "cpu":  # for bytes, NumPy's gather along the rows is several times faster than torch's
        out = torch.empty_like(flat)
        np.take(flat.numpy(), permutation.numpy(), axis=1, out=out.numpy(), mode="clip")
    else:
        out = flat.index_select(1, permutation)
    return out.view(raw.shape)


def rotate(raw: Tensor, degrees: float, chunk: int = 4096) -> Tensor:
    """Images `(b, channels, height, width)` turned counter-clockwise, bilinear, zero outside."""
    from torchvision.transforms.functional import InterpolationMode
    from torchvision.transforms.functional import rotate as turn

    out = torch.empty_like(raw)
    for start in range(0, len(raw), chunk):  # the work needs float32 copies: keep them small
        part = slice(start, start + chunk)
        out[part] = turn(raw[part], degrees, interpolation=InterpolationMode.BILINEAR)
    return out


def _check(task: TensorTask) -> None:
    images, targets = task._images.tensor, task._targets.tensor
    if images.dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"images must be uint8 or float32, not {images.dtype}")
    if targets.dtype != torch.int64 or targets.ndim != 1:
        raise ValueError(f"targets must be int64 of shape (n,), not {targets.dtype} of {tuple(targets.shape)}")
    count = len(images) if task._rows is None else len(task._rows.tensor)
    if count != len(targets):
        raise ValueError(f"{count} images but {len(targets)} targets")
    pixels = math.prod(task.shape)
    if task.permutation is not None and not torch.equal(task.permutation.sort().values, torch.arange(pixels)):
        raise ValueError(f"permutation must hold each of 0..{pixels - 1} once")
    if task.degrees % 360 != 0 and len(task.shape) != 3:
        raise ValueError(f"only images (channels, height, width) can be turned, not shape {task.shape}")


@dataclass(frozen=True)
class ResidentData:
    """What an Avalanche dataset amounts to when it is made of `TensorTask`s alone.

    Attributes:
        parts: The tasks it is made of.
        index: Positions in the concatenation of the parts, `(n,)`, int64; None is all of them, in order.
        task_labels: One label for all images, or one each, `(n,)`; None if batches carry no task label.
    """

    parts: tuple[TensorTask, ...]
    index: Tensor | None = None
    task_labels: int | Tensor | None = None

    def __len__(self) -> int:
        return self._total() if self.index is None else len(self.index)

    @property
    def targets(self) -> Tensor:
        """Labels `(n,)`, int64, on the CPU."""
        targets = torch.cat([part.targets for part in self.parts])
        return targets if self.index is None else targets[self.index.cpu()]

    def to(self, device: Device) -> "ResidentData":
        """The same data with its index on `device`, where batches then come out."""
        index = torch.arange(len(self)) if self.index is None and len(self.parts) > 1 else self.index
        labels = self.task_labels
        return ResidentData(
            self.parts,
            None if index is None else index.to(device),
            labels.to(device) if isinstance(labels, Tensor) else labels,
        )

    def materialise(self, device: Device = "cpu") -> list[Tensor]:
        """Does the work on whole tasks now; it lasts for as long as the result is held.

        Parts that need none, or of which few images are used, are left alone.
        """
        if 2 * len(self) < self._total():
            return []
        return [part.materialise(device) for part in self.parts if part.transformed]

    def batch(self, positions: Tensor) -> list[Tensor]:
        """The mini-batch [x, y] or [x, y, t] at `positions` `(b,)`, on the device of `positions`."""
        index = positions if self.index is None else self.index.index_select(0, positions)
        x, y = self.parts[0].batch(index) if len(self.parts) == 1 else self._mixed(index)
        if self.task_labels is None:
            return [x, y]
        if isinstance(self.task_labels, Tensor):
            return [x, y, self.task_labels.index_select(0, positions)]
        return [x, y, torch.full_like(y, self.task_labels)]

    def _total(self) -> int:
        return sum(len(part) for part in self.parts)

    def _mixed(self, index: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.empty((len(index), *self.parts[0].shape), device=index.device)
        y = torch.empty_like(index)
        start = 0
        for part in self.parts:
            where = ((index >= start) & (index < start + len(part))).nonzero().squeeze(1)
            if len(where):
                x[where], y[where] = part.batch(index[where] - start)
            start += len(part)
        return x, y


def resident(dataset: Any) -> ResidentData | None:
    """Finds the `TensorTask`s inside an Avalanche dataset, or subsets and concatenations of them.

    Args:
        dataset: An `AvalancheDataset`, a `TensorTask`, or torch's `Subset` and `ConcatDataset` of them.

    Returns:
        Their parts and the index, or None if anything else is in it: other datasets, transforms, images of different
        shapes, extra values in the batch, or a collate function of its own.
    """
    if not plain(dataset):
        return None
    found = _flatten(getattr(dataset, "_flat_data", dataset), current_group(dataset))
    if found is None or not found[0] or len({part.shape for part in found[0]}) > 1:
        return None
    parts, index = found
    labels = getattr(dataset, "_data_attributes", {}).get("targets_task_labels")
    return ResidentData(tuple(parts), index, _task_labels(labels))


def plain(dataset: Any) -> bool:
    """Whether a dataset's items are x, y and perhaps a task label, put together in the default way."""
    if getattr(dataset, "collate_fn", default_collate) is not default_collate:
        return False
    attributes = getattr(dataset, "_data_attributes", {})
    return not any(a.use_in_getitem and name != "targets_task_labels" for name, a in attributes.items())


def current_group(dataset: Any) -> str | None:
    """The group of transforms that an Avalanche dataset is set to."""
    groups = getattr(getattr(dataset, "_flat_data", dataset), "_transform_groups", None)
    return None if groups is None else groups.current_group


Found = tuple[list[TensorTask], Tensor | None]


def _flatten(node: Any, group: str | None) -> Found | None:
    """Parts below a node of the dataset tree, and the positions in their concatenation (None: all, in order)."""
    if isinstance(node, TensorTask):
        return [node], None
    if isinstance(node, Subset):
        return _concatenate([node.dataset], node.indices, group)
    if isinstance(node, ConcatDataset):
        return _concatenate(node.datasets, None, group)
    if hasattr(node, "_flat_data") or not hasattr(node, "_datasets"):
        return None  # an AvalancheDataset brings its own group and task labels: known as the outermost alone
    for name in ("_transform_groups", "_frozen_transform_groups"):
        groups = getattr(node, name, None)
        if groups is not None and groups[group] is not None:
            return None
    return _concatenate(node._datasets, getattr(node, "_indices", None), group)


def _concatenate(nodes: Sequence[Any], indices: Any, group: str | None) -> Found | None:
    parts: list[TensorTask] = []
    positions: list[Tensor] = []
    whole, start = True, 0
    for node in nodes:
        below = _flatten(node, group)
        if below is None:
            return None
        size = sum(len(part) for part in below[0])
        positions.append(torch.arange(size) if below[1] is None else below[1])
        positions[-1] = positions[-1] + start
        whole = whole and below[1] is None
        parts, start = parts + below[0], start + size
    if indices is None:
        return parts, None if whole else torch.cat(positions)
    chosen = torch.as_tensor(np.fromiter(indices, dtype=np.int64, count=len(indices)))
    index = chosen if whole else torch.cat(positions)[chosen]
    return parts, None if torch.equal(index, torch.arange(start)) else index


def _task_labels(attribute: Any) -> int | Tensor | None:
    if attribute is None:
        return None
    if len(attribute.uniques) == 1:
        return int(next(iter(attribute.uniques)))
    return torch.tensor([int(label) for label in attribute])
