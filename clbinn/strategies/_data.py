"""Samples of an Avalanche dataset as tensors, by index."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clbinn.benchmarks import resident

__all__ = ["Samples", "reader"]

Samples = tuple[Tensor, Tensor, Tensor]
"""Inputs `(n, …)`, labels `(n,)` and task labels `(n,)`; the label is 0 where the stream has none."""


def reader(dataset: Any, device: torch.device | str) -> Callable[[Tensor], Samples]:
    """A function from positions `(n,)` in the dataset to these samples, on the device.

    One gather for the toolkit's own streams, one sample after another for any other dataset.
    """
    data = resident(dataset)
    if data is not None:
        placed = data.to(device)
        return lambda index: _labelled(*placed.batch(index.to(device)))

    def read(index: Tensor) -> Samples:
        samples = [dataset[i] for i in index.tolist()]
        columns = [torch.stack([sample[0] for sample in samples])]
        columns += [torch.tensor([int(sample[k]) for sample in samples]) for k in range(1, len(samples[0]))]
        return _labelled(*(column.to(device) for column in columns))

    return read


def _labelled(x: Tensor, y: Tensor, *task: Tensor) -> Samples:
    return x, y, task[-1] if task else torch.zeros_like(y)
