import os
from pathlib import Path

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import DataAttribute, TaskLabels
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset

from clbinn.benchmarks import TensorTask


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """A folder that has the real MNIST files."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("CLBINN_DATA") or beside)
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip("the real MNIST files were not found: set CLBINN_DATA to a folder that has MNIST/raw/")
    return root


@pytest.fixture(autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data from the machine slips into a test that doesn't ask for them."""
    monkeypatch.delenv("CLBINN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def _task(n=23, seed=0, permuted=True):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    permutation = torch.randperm(16, generator=generator) if permuted else None
    return TensorTask(raw, torch.arange(n) % 3, permutation=permutation, mean=0.2, std=0.4)


def _wrap(data, label=0, **options):
    attributes = [DataAttribute(data.targets.tolist(), "targets"), TaskLabels([label] * len(data))]
    return TaskAwareSupervisedClassificationDataset([data], data_attributes=attributes, **options)


def _equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def _shapes(batches):
    return [tuple(tuple(part.shape) for part in batch) for batch in batches]


def _images(batches):
    return sorted(tuple(x.flatten().tolist()) for batch in batches for x in batch[0])


def _in_order(parts):
    return [tuple(image.flatten().tolist()) for part in parts for image in part]


def _stream(count=2, numbered=False, **options):
    data = [_wrap(_task(seed=i), i if numbered else 0, **options) for i in range(count)]
    return with_classes_timeline(with_task_labels(benchmark_from_datasets(train=data, test=data)))


@pytest.fixture
def task():
    """A `TensorTask` of made-up images."""
    return _task


@pytest.fixture
def wrap():
    """A task as Avalanche's data set."""
    return _wrap


@pytest.fixture
def equal():
    """Whether mini-batches are the same."""
    return _equal


@pytest.fixture
def shapes():
    """Of all parts of all mini-batches."""
    return _shapes


@pytest.fixture
def images():
    """The images of mini-batches, sorted."""
    return _images


@pytest.fixture
def in_order():
    """The images of some tensors, one after the other."""
    return _in_order


@pytest.fixture
def stream():
    """A benchmark of such tasks."""
    return _stream
