"""Small streams made in memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
from torch.utils.data import TensorDataset

FEATURES, CLASSES = 6, 3


def blobs(task: int, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes around three corners; each task has its features in another order."""
    y = torch.arange(count) % CLASSES
    centres = torch.zeros(CLASSES, FEATURES)
    centres[:, :CLASSES] = 3 * torch.eye(CLASSES)
    x = centres[y] + torch.randn(count, FEATURES, generator=generator)
    return x[:, torch.randperm(FEATURES, generator=torch.Generator().manual_seed(task))], y


class Tasks(TensorDataset):
    """A tensor dataset with targets, as Avalanche wants it."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        super().__init__(x, y)
        self.targets = y.tolist()


@pytest.fixture
def make_stream() -> Callable[..., Any]:
    """A function that makes a benchmark of `tasks` blob tasks."""

    def make(tasks: int = 2, count: int = 60, labelled: bool = False) -> Any:
        generator = torch.Generator().manual_seed(7)
        streams = {}
        for name in ("train", "test"):
            streams[name] = [
                _make_taskaware_classification_dataset(
                    Tasks(*blobs(task, count, generator)), task_labels=task if labelled else 0
                )
                for task in range(tasks)
            ]
        return benchmark_from_datasets(**streams)

    return make
