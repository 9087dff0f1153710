"""The data of one supervised experiment as tensors: a validation split, mini-batches, cropping and flipping."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clbinn.benchmarks.dataset import DeviceCopies, TensorTask
from clbinn.benchmarks.sources import load_source
from clbinn.benchmarks.tasks import digest
from clbinn.errors import RecipeError, UserError
from clbinn.schema import BenchmarkRecipe

__all__ = ["Experiment", "crop_and_flip", "load_experiment"]

PADDING = 4


@dataclass(frozen=True)
class Experiment:
    """Training, validation and test data. Without a split there is no validation.

    Attributes:
        hashes: Of the data, as in environment.json.
    """

    train: TensorTask
    validation: TensorTask | None
    test: TensorTask
    num_classes: int
    hashes: dict[str, str]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, without the batch."""
        return self.train.shape

    def batches(self, batch_size: int, seed: int, device: str, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Training mini-batches in an order that depends on the seed alone; what is left over at the end is dropped.

        Yields:
            Images (batch_size, *shape), float32, and labels (batch_size,).
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.train), generator=generator).to(device)
        for index in torch.split(order, batch_size):
            if len(index) < batch_size < len(order):
                return
            x, y = self.train.batch(index)
            yield (crop_and_flip(x, generator) if augment else x), y


def load_experiment(
    benchmark: BenchmarkRecipe,
    validation: float,
    seed: int,
    data_root: Path | None = None,
    download: bool | None = None,
) -> Experiment:
    """The one task of a recipe, split for validation.

    Args:
        benchmark: A recipe of a single task that leaves its images as they are.
        validation: Share of the training data, drawn at random, that validates; 0 is none.
        seed: Of the split.
        data_root: Folder that is searched first.
        download: Whether missing data may be downloaded; None as the recipe says.

    Raises:
        RecipeError: The recipe has no source.
        DataError: Data that are missing or damaged.
        UserError: A split that leaves a part empty.
    """
    if benchmark.source is None:
        raise RecipeError(f"{benchmark.name}: a supervised experiment needs a `source`")
    source = load_source(benchmark.source, data_root, download)
    normalise = benchmark.source.normalise
    mean, std = (0.0, 1.0) if normalise is None else (normalise.mean, normalise.std)
    total = len(source.train_targets)
    held_out = round(total * validation)
    if validation and not 0 < held_out < total:
        raise UserError(f"a validation share of {validation} of {total} images leaves one part empty")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    images = DeviceCopies(source.train_images)

    def part(rows: Tensor) -> TensorTask:
        rows = rows.sort().values
        return TensorTask(images, source.train_targets[rows], rows=rows, mean=mean, std=std)

    return Experiment(
        train=part(order[held_out:]),
        validation=part(order[:held_out]) if held_out else None,
        test=TensorTask(source.test_images, source.test_targets, mean=mean, std=std),
        num_classes=int(source.train_targets.max()) + 1,
        hashes={f"data:{source.name}": digest(*source.tensors)},
    )


def crop_and_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of each image out of itself padded by 4 pixels of 0, then a horizontal flip of every second one.

    Args:
        x: Normalised images (n, channels, height, width).
        generator: On the CPU.

    Returns:
        The same shape.
    """
    n, _, height, width = x.shape
    top, left = torch.randint(0, 2 * PADDING + 1, (2, n, 1), generator=generator)
    flip = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.arange(width).expand(n, width)
    columns = left + torch.where(flip, columns.flip(1), columns)
    rows = top + torch.arange(height)
    padded = torch.nn.functional.pad(x, (PADDING,) * 4).permute(0, 2, 3, 1)  # channels last: one gather of pixels
    index = (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])
    return padded[tuple(part.to(x.device) for part in index)].permute(0, 3, 1, 2).contiguous()
