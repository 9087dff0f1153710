import pytest
import torch
from avalanche.benchmarks import classic
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.utils import DataAttribute, TaskLabels, classification_dataset, make_avalanche_dataset
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision import transforms

from clbinn.benchmarks import cache
from clbinn.benchmarks.cache import cached

X = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
ORDER = torch.randperm(16, generator=torch.Generator().manual_seed(1))
NORMALISE = transforms.Normalize((0.2,), (0.4,))


Tensors = classification_dataset._TensorClassificationDataset  # gives labels as numbers


def wrap(*steps, **options):
    attributes = [DataAttribute(Y.tolist(), "targets"), TaskLabels([2] * 12)]
    groups = {"train": transforms.Compose(steps), "eval": None}
    dataset = Tensors(X, Y)
    return TaskAwareSupervisedClassificationDataset(
        [dataset], data_attributes=attributes, frozen_transform_groups=groups, **options
    )


def halve(x):
    return x / 2


def test_what_is_kept_are_the_items():
    dataset = wrap(PixelsPermutation(ORDER), NORMALISE).subset([5, 1, 1, 7])
    found = cached(dataset)
    x, y, t = found.batch(torch.arange(4))
    expected = ((X - 0.2) / 0.4).flatten(1)[:, ORDER].view(X.shape)[[5, 1, 1, 7]]
    torch.testing.assert_close(x, expected)
    assert torch.equal(x, torch.stack([dataset[i][0] for i in range(4)]))
    assert y.tolist() == Y[[5, 1, 1, 7]].tolist()
    assert t.tolist() == [2] * 4


@pytest.mark.parametrize(
    "step",
    [
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([NORMALISE]),
        transforms.RandomOrder([NORMALISE]),
        transforms.RandomRotation(10),
        transforms.Compose([NORMALISE, transforms.RandomCrop(3)]),
        transforms.Lambda(halve),
        halve,
    ],
    ids=lambda step: type(step).__name__,
)
def test_what_may_be_random_is_not_kept(step):
    assert cached(wrap(step)) is None
    assert cached(wrap(step).eval()) is not None  # that group has no transforms


def test_a_fixed_angle_is_not_random():
    assert cached(wrap(transforms.RandomRotation((10, 10)))) is not None


class Noisy(TensorDataset):
    def __getitem__(self, i):
        return torch.rand(3), 0


@pytest.mark.parametrize(
    ("dataset", "kept"),
    [
        (Subset(TensorDataset(X, Y), [0]), True),
        (ConcatDataset([TensorDataset(X, Y), TensorDataset(X, Y)]), True),
        (ConcatDataset([TensorDataset(X, Y), Noisy(X, Y)]), False),
        (Noisy(X, Y), False),
        ([(X[0], 0)], False),
        (TensorDataset(X.double(), Y), False),
        (TensorDataset(X, Y.float()), False),
        (TensorDataset(X, Y, Y, Y), False),
        (make_avalanche_dataset(TensorDataset(X, Y), collate_fn=list), False),
        (Subset(TensorDataset(X, Y), []), False),
        (Subset(wrap(NORMALISE), [0, 1]), False),
        (ConcatDataset([wrap(NORMALISE), TensorDataset(X, Y)]), False),
    ],
)
def test_which_datasets_are_kept(dataset, kept):
    assert (cached(dataset) is not None) == kept


def test_large_data_are_not_kept(monkeypatch):
    dataset = TensorDataset(X, Y)
    monkeypatch.setattr(cache, "_LARGEST", X.numel() * 4)
    assert cached(dataset) is not None
    monkeypatch.setattr(cache, "_LARGEST", X.numel() * 4 - 1)
    assert cached(dataset) is None


@pytest.mark.mnist
@pytest.mark.parametrize("name", ["PermutedMNIST", "RotatedMNIST", "SplitMNIST"])
def test_avalanches_mnist_benchmarks_are_kept(mnist_root, name):
    options = {"n_experiences": 2, "seed": 1, "dataset_root": mnist_root}
    dataset = getattr(classic, name)(**options).train_stream[1].dataset
    part = dataset.subset(range(0, len(dataset), 1999))
    found = cached(part)
    x, y, t = found.batch(torch.arange(len(part)))
    assert torch.equal(x, torch.stack([item[0] for item in (part[i] for i in range(len(part)))]))
    assert y.tolist() == list(part.targets)
    assert t.tolist() == list(part.targets_task_labels)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    assert cached(TensorDataset(X, Y)) is not None
    assert torch.equal(torch.get_rng_state(), before)
